//! Tokens and signatures: kept, and renewed beside the requests that use them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::failure::{Class, Failure, describe};
use crate::credential::Secret;
use crate::credential::renewal::{self, FLOOR, MINT_TIMEOUT};
use crate::error::{BoxError, LastError, StoreErrorKind};

/// How long something is used that does not say when it expires.
const UNKNOWN_LIFE: Duration = Duration::from_secs(60 * 60);

/// What the credential gave.
pub(super) struct Fresh {
    pub(super) text: Secret,
    /// `None`: nobody knows.
    pub(super) expires_at: Option<SystemTime>,
}

/// What it gave instead.
pub(super) struct Unavailable {
    /// Whether it will not give anything the next time either.
    pub(super) is_refusal: bool,
    pub(super) error: BoxError,
}

type Fetch = dyn Fn() -> BoxFuture<'static, Result<Fresh, Unavailable>> + Send + Sync;

/// Something that expires. One attempt to renew it is under way at a time; whoever has a valid one does not wait for it.
pub(super) struct Kept {
    fetch: Arc<Fetch>,
    state: Arc<watch::Sender<State>>,
    /// Ends with the store.
    renewal: Mutex<Option<AbortOnDropHandle<()>>>,
}

#[derive(Default)]
struct State {
    current: Option<Current>,
    is_fetching: bool,
    /// Attempts that failed since the last one that did not.
    failures: u32,
    /// When the last attempt ended.
    fetched_at: Option<Instant>,
    /// When to ask next.
    due_at: Option<Instant>,
    /// Since the last one that did not.
    last_failure: Option<(Failure, SystemTime)>,
}

struct Current {
    text: Secret,
    expires_at: Instant,
}

impl Kept {
    pub(super) fn new(
        fetch: impl Fn() -> BoxFuture<'static, Result<Fresh, Unavailable>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            fetch: Arc::new(fetch),
            state: Arc::default(),
            renewal: Mutex::default(),
        }
    }

    /// What is valid now. Waits only if there is nothing.
    ///
    /// CANCEL: the attempt that is waited for goes on, for the next one who asks.
    pub(super) async fn get(&self) -> Result<Secret, Failure> {
        let mut news = self.state.subscribe();
        self.renew_if_due();
        // The sender is `self`.
        let Ok(state) = news
            .wait_for(|state| state.valid().is_some() || !state.is_fetching)
            .await
        else {
            return Err(unavailable(false, "the renewal has ended"));
        };
        match (state.valid(), &state.last_failure) {
            (Some(text), _) => Ok(text.clone()),
            (None, Some((failure, _))) => Err(failure.clone()),
            (None, None) => Err(unavailable(false, "what there was has expired")),
        }
    }

    /// How the last attempt failed, unless it did not.
    pub(super) fn trouble(&self) -> Option<LastError> {
        let state = self.state.borrow();
        let (failure, time) = state.last_failure.as_ref()?;
        Some(LastError::new(&*failure.detail, *time))
    }

    /// The service does not take what is valid: the next request that comes asks for another, but not in a hurry.
    pub(super) fn refused(&self) {
        self.state.send_if_modified(|state| {
            // What the service refuses may be all there is: a pause lies between two attempts here as well.
            if state.failures == 0 {
                state.due_at = state.fetched_at.map(|at| at + FLOOR);
            }
            false
        });
    }

    fn renew_if_due(&self) {
        let mut is_due = false;
        self.state.send_if_modified(|state| {
            let now = Instant::now();
            is_due = !state.is_fetching && state.due_at.is_none_or(|due_at| due_at <= now);
            state.is_fetching |= is_due;
            false
        });
        if !is_due {
            return;
        }
        let done = Done(Arc::clone(&self.state));
        let fetched = timeout(MINT_TIMEOUT, (self.fetch)());
        let task = tokio::spawn(async move {
            let result = match fetched.await {
                Ok(result) => result,
                Err(_) => Err(Unavailable {
                    is_refusal: false,
                    error: format!("it took longer than {MINT_TIMEOUT:?}").into(),
                }),
            };
            done.0.send_modify(|state| state.take(result));
        });
        let mut renewal = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        *renewal = Some(AbortOnDropHandle::new(task));
    }
}

/// Says that the attempt is over, also if it panicked.
struct Done(Arc<watch::Sender<State>>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.send_modify(|state| {
            if std::mem::take(&mut state.is_fetching) {
                state.failed(unavailable(false, "the credential panicked"));
            }
        });
    }
}

impl State {
    fn valid(&self) -> Option<&Secret> {
        let current = self.current.as_ref()?;
        (current.expires_at > Instant::now()).then_some(&current.text)
    }

    fn take(&mut self, result: Result<Fresh, Unavailable>) {
        self.is_fetching = false;
        let fresh = match result {
            Ok(fresh) => fresh,
            Err(Unavailable { is_refusal, error }) => {
                self.failed(unavailable(is_refusal, &describe(&*error)));
                return;
            }
        };
        let life = fresh.expires_at.map_or(UNKNOWN_LIFE, |expires_at| {
            expires_at
                .duration_since(SystemTime::now())
                .unwrap_or_default()
        });
        if life.is_zero() {
            self.failed(unavailable(true, "what it gave has expired"));
            return;
        }
        let now = Instant::now();
        *self = Self {
            current: Some(Current {
                text: fresh.text,
                expires_at: now + life,
            }),
            fetched_at: Some(now),
            due_at: Some(now + renewal::renew_after(life, &mut rand::rng())),
            ..Self::default()
        };
    }

    fn failed(&mut self, failure: Failure) {
        self.failures += 1;
        let wait = match self.valid() {
            // Somebody is kept waiting by each refusal; the pauses stay short.
            None => FLOOR,
            Some(_) => renewal::retry_after(self.failures, &mut rand::rng()),
        };
        let now = Instant::now();
        self.fetched_at = Some(now);
        self.due_at = Some(now + wait);
        tracing::warn!(
            detail = failure.detail,
            is_still_valid = self.valid().is_some(),
            "a credential for the storage account was not renewed"
        );
        self.last_failure = Some((failure, SystemTime::now()));
    }
}

/// The request was not sent, for lack of something to prove itself with.
fn unavailable(is_refusal: bool, detail: &str) -> Failure {
    let kind = match is_refusal {
        true => StoreErrorKind::Unauthorized,
        false => StoreErrorKind::CredentialUnavailable,
    };
    Failure::new(
        Class::Refused,
        kind,
        format!("no credential for the storage account: {detail}"),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;

    use super::*;

    /// Gives out numbered tokens that live 20 s after `takes`, or fails from the call `fails_from` on.
    fn kept(calls: &Arc<AtomicUsize>, takes: Duration, fails_from: usize) -> Kept {
        let calls = Arc::clone(calls);
        Kept::new(move || {
            let number = calls.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::time::sleep(takes).await;
                if number >= fails_from {
                    return Err(Unavailable {
                        is_refusal: false,
                        error: "the issuer is down".into(),
                    });
                }
                Ok(Fresh {
                    text: Secret::new(number.to_string()),
                    expires_at: Some(SystemTime::now() + Duration::from_secs(20)),
                })
            }
            .boxed()
        })
    }

    const NEVER: usize = usize::MAX;

    #[tokio::test(start_paused = true)]
    async fn one_attempt_serves_everybody_and_renewal_holds_nobody_up() {
        let calls = Arc::<AtomicUsize>::default();
        let kept = kept(&calls, Duration::from_secs(2), NEVER);
        let (first, second) = tokio::join!(kept.get(), kept.get());
        assert_eq!(first.unwrap().expose(), "0");
        assert_eq!(second.unwrap().expose(), "0");
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        // Four minutes of a request each 100 ms, with tokens that live 20 s and take 2 s to get.
        for _ in 0..2400 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let begun = Instant::now();
            kept.get().await.unwrap();
            assert_eq!(begun.elapsed(), Duration::ZERO);
        }
        let calls = calls.load(Ordering::SeqCst);
        assert!((12..=17).contains(&calls), "{calls}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_valid_outlives_the_issuer_and_the_issuer_is_not_hammered() {
        let calls = Arc::<AtomicUsize>::default();
        let kept = kept(&calls, Duration::ZERO, 1);
        kept.get().await.unwrap();
        assert!(kept.trouble().is_none());
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(19) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            kept.get().await.unwrap();
        }
        let trouble = kept.trouble().unwrap();
        assert!(trouble.message.contains("the issuer is down"));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let failure = kept.get().await.unwrap_err();
        assert_eq!(failure.kind, StoreErrorKind::CredentialUnavailable);
        assert!(failure.detail.contains("the issuer is down"));
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            kept.get().await.unwrap_err();
        }
        let calls = calls.load(Ordering::SeqCst);
        assert!((10..=16).contains(&calls), "{calls}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_of_the_service_brings_a_new_one_with_the_next_request() {
        let calls = Arc::<AtomicUsize>::default();
        let kept = kept(&calls, Duration::ZERO, NEVER);
        assert_eq!(kept.get().await.unwrap().expose(), "0");
        for _ in 0..10 {
            kept.refused();
            assert_eq!(kept.get().await.unwrap().expose(), "0");
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1, "but not in a hurry");
        tokio::time::sleep(FLOOR).await;
        kept.get().await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(kept.get().await.unwrap().expose(), "1");
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_ends_with_the_next_attempt_that_succeeds() {
        let calls = AtomicUsize::new(0);
        let kept = Kept::new(move || {
            let fails = calls.fetch_add(1, Ordering::SeqCst) == 0;
            let fresh = Fresh {
                text: Secret::new("text"),
                expires_at: None,
            };
            let error = Unavailable {
                is_refusal: true,
                error: "no".into(),
            };
            async move { if fails { Err(error) } else { Ok(fresh) } }.boxed()
        });
        kept.get().await.unwrap_err();
        assert!(kept.trouble().is_some());
        tokio::time::sleep(FLOOR).await;
        kept.get().await.unwrap();
        assert!(kept.trouble().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_credential_that_panics_or_hangs_is_an_error_and_tried_again() {
        let panics = Kept::new(|| async { panic!("as told") }.boxed());
        let failure = panics.get().await.unwrap_err();
        assert!(failure.detail.contains("panicked"), "{}", failure.detail);
        let hangs = Kept::new(|| std::future::pending().boxed());
        let begun = Instant::now();
        let failure = hangs.get().await.unwrap_err();
        assert!(failure.detail.contains("30s"), "{}", failure.detail);
        assert!(begun.elapsed() <= MINT_TIMEOUT + Duration::from_secs(1));
    }
}
