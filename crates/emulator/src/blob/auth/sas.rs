//! Shared access signatures in the query: of the account, of a container, of a blob.

use super::{
    super::{
        clock::parse_sas_time,
        errors::ErrorCode,
        request::{Operation, Target},
    },
    Gate, Grant, StorageError,
};

pub(super) fn check(gate: &Gate<'_>, target: &Target) -> Result<Grant, StorageError> {
    let version = target.query("sv").unwrap_or_default();
    if version < "2015-04-05" || target.query("skoid").is_some() {
        let reason = "The signed version or the kind of this signature is not supported.";
        return Err(StorageError::unauthenticated(reason));
    }
    let is_account_sas = target.query("ss").is_some();
    let text = if is_account_sas {
        account_string(gate.account, target, version)
    } else {
        service_string(gate.account, target, version)?
    };
    let signature = target.query("sig").unwrap_or_default();
    if !gate.key.verifies(text.as_bytes(), signature) {
        return Err(StorageError::unauthenticated(format!(
            "Signature did not match. String to sign used was {text}"
        )));
    }
    check_times(gate, target)?;
    if target.query("spr") == Some("https") {
        return Err(ErrorCode::AuthorizationProtocolMismatch.into());
    }
    if is_account_sas {
        check_account_scope(target)?;
    } else {
        check_service_scope(target)?;
    }
    let granted = target.query("sp").unwrap_or_default();
    let needed = needed_permissions(target.operation);
    if !granted.chars().any(|c| needed.contains(c)) {
        return Err(ErrorCode::AuthorizationPermissionMismatch.into());
    }
    // PROTOCOL: `c` without `w` may create a blob but not overwrite it.
    let is_partial = target.operation == Operation::PutBlob && !granted.contains('w');
    Ok(if is_partial {
        Grant::CreateOnly
    } else {
        Grant::Full
    })
}

fn fields<'t>(target: &'t Target, names: &[&str]) -> Vec<&'t str> {
    names
        .iter()
        .map(|name| target.query(name).unwrap_or_default())
        .collect()
}

fn account_string(account: &str, target: &Target, version: &str) -> String {
    let mut lines = vec![account];
    lines.extend(fields(
        target,
        &["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"],
    ));
    if version >= "2020-12-06" {
        lines.extend(fields(target, &["ses"]));
    }
    // PROTOCOL: an account signature ends its string with a line feed, a service one does not.
    lines.join("\n") + "\n"
}

fn service_string(account: &str, target: &Target, version: &str) -> Result<String, StorageError> {
    let container = target.container.as_deref().unwrap_or_default();
    let resource = match target.query("sr") {
        Some("c") => format!("/blob/{account}/{container}"),
        Some("b") => {
            let blob = target.blob.as_deref().unwrap_or_default();
            format!("/blob/{account}/{container}/{blob}")
        }
        _ => {
            let reason = "sr is mandatory and must be 'c' or 'b'.";
            return Err(StorageError::unauthenticated(reason));
        }
    };
    let mut lines = fields(target, &["sp", "st", "se"]);
    lines.push(&resource);
    lines.extend(fields(target, &["si", "sip", "spr", "sv"]));
    if version >= "2018-11-09" {
        lines.extend(fields(target, &["sr", "snapshot"]));
    }
    if version >= "2020-12-06" {
        lines.extend(fields(target, &["ses"]));
    }
    lines.extend(fields(target, &["rscc", "rscd", "rsce", "rscl", "rsct"]));
    Ok(lines.join("\n"))
}

fn check_times(gate: &Gate<'_>, target: &Target) -> Result<(), StorageError> {
    let Some(now) = gate.now else {
        return Ok(());
    };
    let time = |name: &str| match target.query(name) {
        None => Ok(None),
        Some(text) => parse_sas_time(text).map(Some).ok_or_else(|| {
            StorageError::unauthenticated(format!("{name} is not a valid time: '{text}'."))
        }),
    };
    let (start, expiry) = (time("st")?, time("se")?);
    let Some(expiry) = expiry else {
        let reason = "se is mandatory. Cannot be empty";
        return Err(StorageError::unauthenticated(reason));
    };
    if start.is_some_and(|start| now < start) || now >= expiry {
        let reason = "Signature not valid in the specified time frame";
        return Err(StorageError::unauthenticated(reason));
    }
    Ok(())
}

fn check_account_scope(target: &Target) -> Result<(), StorageError> {
    if !target.query("ss").unwrap_or_default().contains('b') {
        return Err(ErrorCode::AuthorizationServiceMismatch.into());
    }
    // PROTOCOL: listing blobs acts on the container, listing containers on the service.
    let kind = match (&target.container, &target.blob) {
        (_, Some(_)) => 'o',
        (Some(_), None) => 'c',
        (None, None) => 's',
    };
    if !target.query("srt").unwrap_or_default().contains(kind) {
        return Err(ErrorCode::AuthorizationResourceTypeMismatch.into());
    }
    Ok(())
}

fn check_service_scope(target: &Target) -> Result<(), StorageError> {
    // PROTOCOL: a service signature never creates, deletes or reads a container itself.
    let allowed = match target.operation {
        Operation::ListBlobs => target.query("sr") == Some("c"),
        operation => operation.is_on_blob(),
    };
    if allowed {
        Ok(())
    } else {
        Err(ErrorCode::AuthorizationFailure.into())
    }
}

/// Any one of these letters is enough.
fn needed_permissions(operation: Operation) -> &'static str {
    match operation {
        Operation::CreateContainer => "cw",
        Operation::DeleteBlob | Operation::DeleteContainer => "d",
        Operation::GetBlob
        | Operation::GetBlobMetadata
        | Operation::GetBlobProperties
        | Operation::GetContainerProperties => "r",
        Operation::ListBlobs | Operation::ListContainers => "l",
        Operation::PutBlob => "wc",
        Operation::SetBlobMetadata => "w",
    }
}
