//! What the service has accepted about whom. No IO; time comes in as an argument.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rand::{Rng, RngExt as _};
use tokio::time::Instant;

use super::failure::Failure;
use super::token::Token;
use crate::credential::Secret;
use crate::credential::renewal::{self, FLOOR};
use crate::error::{LastError, TransportErrorKind};
use crate::telemetry::chain;

/// Over this time the renewals are spread that the replacement of a key brings about.
const ROTATE_WITHIN_MS: std::ops::Range<u64> = 0..1000;

/// The grants of one connection by audience: shared by the task that renews them and by those who need one.
#[derive(Debug, Default)]
pub(super) struct Grants(Mutex<BTreeMap<String, Entry>>);

#[derive(Debug, Default)]
struct Entry {
    grant: Option<Grant>,
    /// Attempts that failed since the last grant.
    failures: u32,
    /// When the last attempt failed in a way that the next one will, and how.
    refused: Option<(Instant, Failure)>,
    /// How the last attempt failed, if it did.
    trouble: Option<LastError>,
    /// When to renew, or to forget what cannot be renewed.
    due_at: Option<Instant>,
}

#[derive(Debug)]
struct Grant {
    text: Secret,
    expires_at: Instant,
    renewable: bool,
    version: u64,
}

impl Grants {
    /// The token of a grant that holds, if it is from the credential's present key.
    pub(super) fn valid(&self, audience: &str, version: u64, now: Instant) -> Option<Secret> {
        let entries = self.lock();
        let grant = entries.get(audience)?.grant.as_ref()?;
        (grant.expires_at > now && grant.version == version).then(|| grant.text.clone())
    }

    /// Why there is no point in asking now: it was refused a moment ago.
    pub(super) fn refused(&self, audience: &str, now: Instant) -> Option<Failure> {
        let entries = self.lock();
        let (at, failure) = entries.get(audience)?.refused.as_ref()?;
        (now < *at + FLOOR).then(|| failure.repeated())
    }

    /// Notes what the service has accepted.
    pub(super) fn accept(&self, audience: &str, token: Token, now: Instant, rng: &mut impl Rng) {
        let life = token
            .expires_at
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let due = if token.renewable {
            renewal::renew_after(life, rng)
        } else {
            life
        };
        let grant = Grant {
            text: token.text,
            expires_at: now + life,
            renewable: token.renewable,
            version: token.version,
        };
        let entry = Entry {
            grant: Some(grant),
            failures: 0,
            refused: None,
            trouble: None,
            due_at: Some(now + due),
        };
        self.lock().insert(audience.to_owned(), entry);
    }

    /// Notes that there is no new token. The grant that there is holds until it expires, and until then it is tried again.
    pub(super) fn fail(&self, audience: &str, failure: &Failure, now: Instant, rng: &mut impl Rng) {
        let mut entries = self.lock();
        let entry = entries.entry(audience.to_owned()).or_default();
        entry.failures += 1;
        let message = chain(&failure.error).to_string();
        entry.trouble = Some(LastError::new(message, SystemTime::now()));
        entry.refused =
            is_about_credentials(failure.error.kind()).then(|| (now, failure.repeated()));
        if entry.grant.as_ref().is_some_and(|g| g.expires_at <= now) {
            // The next operation tries again and tells its caller what is wrong.
            entry.grant = None;
        }
        entry.due_at = entry
            .grant
            .as_ref()
            .map(|_| now + renewal::retry_after(entry.failures, rng));
    }

    /// The last failure that no grant has followed.
    pub(super) fn trouble(&self) -> Option<LastError> {
        let entries = self.lock();
        let trouble = entries.values().filter_map(|entry| entry.trouble.as_ref());
        trouble.max_by_key(|error| error.time).cloned()
    }

    /// Forgets a grant that the service does not honour.
    pub(super) fn forget(&self, audience: &str) {
        self.lock().remove(audience);
    }

    /// Has all grants renewed soon, because the key is another one, and refusals of the old one forgotten.
    pub(super) fn rotate(&self, now: Instant, rng: &mut impl Rng) {
        for entry in self.lock().values_mut() {
            entry.refused = None;
            entry.failures = 0;
            if entry.grant.as_ref().is_some_and(|grant| grant.renewable) {
                let spread = Duration::from_millis(rng.random_range(ROTATE_WITHIN_MS));
                entry.due_at = Some(now + spread);
            }
        }
    }

    /// When the next grant is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.lock().values().filter_map(|entry| entry.due_at).min()
    }

    /// The audiences that are to be renewed now. Those that cannot be are forgotten. Each is told once.
    pub(super) fn take_due(&self, now: Instant) -> Vec<String> {
        let mut due = Vec::new();
        self.lock().retain(|audience, entry| {
            if entry.due_at.is_none_or(|due_at| due_at > now) {
                return true;
            }
            entry.due_at = None;
            let renewable = entry.grant.as_ref().is_some_and(|grant| grant.renewable);
            if renewable {
                due.push(audience.clone());
            }
            renewable
        });
        due
    }

    /// How long the grant still holds; zero if there is none.
    pub(super) fn left(&self, audience: &str, now: Instant) -> Duration {
        let entries = self.lock();
        let grant = entries.get(audience).and_then(|entry| entry.grant.as_ref());
        grant.map_or(Duration::ZERO, |grant| {
            grant.expires_at.saturating_duration_since(now)
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // Every change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the next attempt would fail as well, unless somebody does something about the credential.
fn is_about_credentials(kind: TransportErrorKind) -> bool {
    matches!(
        kind,
        TransportErrorKind::Unauthorized | TransportErrorKind::CredentialUnavailable
    )
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::error::TransportError;

    const AUDIENCE: &str = "sb://h/hub";

    fn token(life: u64, renewable: bool, version: u64) -> Token {
        Token {
            text: Secret::new("canary"),
            kind: "jwt",
            expires_at: SystemTime::now() + Duration::from_secs(life),
            renewable,
            version,
        }
    }

    fn failure(kind: TransportErrorKind) -> Failure {
        Failure::of_link(TransportError::new(kind, "authorizing"))
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_holds_until_it_expires_and_is_renewed_before() {
        let (grants, mut rng, now) = (Grants::default(), StdRng::seed_from_u64(1), Instant::now());
        grants.accept(AUDIENCE, token(20, true, 0), now, &mut rng);
        assert!(grants.valid(AUDIENCE, 0, now + secs(19)).is_some());
        assert!(grants.valid(AUDIENCE, 0, now + secs(20)).is_none());
        assert!(grants.take_due(now + secs(14)).is_empty());
        assert_eq!(grants.take_due(now + secs(16)), [AUDIENCE]);
        assert!(
            grants.take_due(now + secs(16)).is_empty(),
            "it is on its way"
        );
        assert!(grants.valid(AUDIENCE, 0, now + secs(16)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_renewed_is_forgotten_when_it_ends() {
        let (grants, mut rng, now) = (Grants::default(), StdRng::seed_from_u64(1), Instant::now());
        grants.accept(AUDIENCE, token(20, false, 0), now, &mut rng);
        assert!(grants.take_due(now + secs(19)).is_empty());
        grants.rotate(now, &mut rng);
        assert!(grants.take_due(now + secs(19)).is_empty());
        assert!(grants.take_due(now + secs(20)).is_empty());
        assert_eq!(grants.next_due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_leave_the_grant_and_are_ever_further_apart() {
        let (grants, mut rng, mut now) =
            (Grants::default(), StdRng::seed_from_u64(1), Instant::now());
        grants.accept(AUDIENCE, token(3600, true, 0), now, &mut rng);
        now += secs(2880);
        let end = now + secs(700);
        let mut attempts = 0;
        while now < end {
            assert_eq!(grants.take_due(now), [AUDIENCE]);
            attempts += 1;
            grants.fail(
                AUDIENCE,
                &failure(TransportErrorKind::Unauthorized),
                now,
                &mut rng,
            );
            assert!(grants.valid(AUDIENCE, 0, now).is_some());
            let next = grants.next_due().unwrap();
            assert!(next >= now + FLOOR);
            now = next;
        }
        assert!((12..=16).contains(&attempts), "{attempts}");
        now += secs(100);
        grants.fail(
            AUDIENCE,
            &failure(TransportErrorKind::Timeout),
            now,
            &mut rng,
        );
        assert_eq!(grants.next_due(), None, "nobody renews what has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_stands_for_a_while_unless_the_key_is_replaced() {
        let (grants, mut rng, now) = (Grants::default(), StdRng::seed_from_u64(1), Instant::now());
        let mut refuse = |kind| {
            grants.fail(AUDIENCE, &failure(kind), now, &mut rng);
            let told = |after| {
                grants
                    .refused(AUDIENCE, now + after)
                    .map(|f| f.error.kind())
            };
            (told(secs(4)), told(FLOOR))
        };
        let unauthorized = TransportErrorKind::Unauthorized;
        assert_eq!(refuse(unauthorized), (Some(unauthorized), None));
        assert_eq!(refuse(TransportErrorKind::ServerBusy), (None, None));
        assert_eq!(refuse(unauthorized), (Some(unauthorized), None));
        grants.rotate(now, &mut StdRng::seed_from_u64(2));
        assert!(grants.refused(AUDIENCE, now).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_failure_shows_until_its_own_audience_is_granted() {
        let (grants, mut rng, now) = (Grants::default(), StdRng::seed_from_u64(1), Instant::now());
        let message = |grants: &Grants| grants.trouble().map(|error| error.message);
        grants.accept(AUDIENCE, token(20, true, 0), now, &mut rng);
        assert_eq!(message(&grants), None);
        let failure = failure(TransportErrorKind::CredentialUnavailable);
        grants.fail(AUDIENCE, &failure, now, &mut rng);
        let told = message(&grants);
        assert!(told.is_some());
        grants.accept("sb://h/hub/group", token(20, true, 0), now, &mut rng);
        // Over the end of what was granted.
        grants.fail(AUDIENCE, &failure, now + secs(21), &mut rng);
        grants.rotate(now, &mut rng);
        assert_eq!(message(&grants), told);
        grants.accept(AUDIENCE, token(20, true, 0), now, &mut rng);
        assert_eq!(message(&grants), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_key_makes_old_grants_void_for_us_and_due_within_a_second() {
        let (grants, mut rng, now) = (Grants::default(), StdRng::seed_from_u64(1), Instant::now());
        grants.accept(AUDIENCE, token(3600, true, 0), now, &mut rng);
        grants.rotate(now, &mut rng);
        assert!(grants.valid(AUDIENCE, 1, now).is_none());
        assert_eq!(grants.take_due(now + secs(1)), [AUDIENCE]);
    }
}
