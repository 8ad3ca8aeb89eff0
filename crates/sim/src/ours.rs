//! One of our processors: the production one, on simulated seams.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use eventhubs_processor::checkpoint::WriteCondition;
use eventhubs_processor::{
    CheckpointStore as _, EventProcessor, GroupScope, ProcessorHandle, ProcessorOptions,
};

use crate::bugs::{Bug, BuggyStore};
use crate::gate::Gate;
use crate::handler::{Behaviour, SimHandler};
use crate::history::{Happening, Member};
use crate::hub::{HubClient, SimHub};
use crate::store::{SimStore, StoreClient};
use crate::terms::Terms;
use crate::world::World;

/// What our processors of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct OurSetup {
    pub(crate) world: World,
    pub(crate) store: SimStore,
    pub(crate) hub: SimHub,
    pub(crate) terms: Terms,
    pub(crate) options: ProcessorOptions,
    pub(crate) behaviour: Behaviour,
    pub(crate) bug: Option<Bug>,
}

/// A processor that runs.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) member: Member,
    pub(crate) gate: Gate,
    world: World,
    handle: ProcessorHandle,
    store: BuggyStore,
    owner_id: String,
    bug: Option<Bug>,
}

impl OurSetup {
    /// Starts a processor under a name that no other one of the run has.
    pub(crate) fn spawn(&self, name: &str) -> Result<Ours, eventhubs_processor::BuildError> {
        let number = self.world.seed().number(name, 0);
        // No other name is a part of it.
        let owner_id = format!("{number:016x}-{name}.");
        let member = self.world.enter(&owner_id);
        self.world.note(Happening::Up {
            member,
            is_ours: true,
        });
        let gate = Gate::default();
        let store = BuggyStore::new(
            StoreClient::new(
                &self.store,
                member,
                gate.clone(),
                self.options.load_balancing_interval,
            ),
            self.bug,
            suspect_time(&self.options),
        );
        let hub = HubClient::new(&self.hub, member, gate.clone(), self.bug);
        let handler = SimHandler {
            world: self.world.clone(),
            member,
            gate: gate.clone(),
            terms: self.terms.clone(),
            behaviour: self.behaviour.clone(),
            bug: self.bug,
            current: Mutex::new(BTreeMap::new()),
        };
        let handle = EventProcessor::builder(hub, "$Default", store.clone())
            .with_options(self.options.clone())
            .with_owner_name(owner_id.as_str())
            .with_seed(number)
            .build(handler)?
            .spawn();
        Ok(Ours {
            member,
            gate,
            world: self.world.clone(),
            handle,
            store,
            owner_id,
            bug: self.bug,
        })
    }
}

/// The silence after which our processors take each other for dead, by the documentation of the options.
pub(crate) fn suspect_time(options: &ProcessorOptions) -> Duration {
    let by_default = (options.load_balancing_interval * 5 / 2).max(Duration::from_secs(3));
    options.ownership_suspect_time.unwrap_or(by_default)
}

impl Ours {
    /// Whether an ownership write is under way.
    pub(crate) fn is_claiming(&self) -> bool {
        self.store.is_claiming()
    }

    /// Kills the process: nothing it has not sent yet leaves it.
    pub(crate) fn crash(self) {
        self.gate.shut();
        self.world.note(Happening::Down {
            member: self.member,
            by_crash: true,
        });
    }

    /// Stops gracefully.
    pub(crate) async fn stop(self) {
        let member = self.member;
        self.world.note(Happening::Stopping { member });
        if self.bug == Some(Bug::EarlyRelinquish) {
            self.give_everything_back().await;
        }
        // It can only have failed at its start, by a configuration that no run has.
        let _ = self.handle.shutdown().await;
        self.world.note(Happening::Down {
            member,
            by_crash: false,
        });
    }

    async fn give_everything_back(&self) {
        let scope = GroupScope::new("", "", "");
        let Ok(listing) = self.store.list_ownership(&scope).await else {
            return;
        };
        for record in listing.ownerships {
            if record
                .owner_id
                .is_some_and(|id| id.as_str().contains(&self.owner_id))
            {
                let condition = WriteCondition::Matches(record.etag);
                let id = &record.partition_id;
                // A planted bug may as well fail.
                let _ = self
                    .store
                    .claim_ownership(&scope, id, None, &condition)
                    .await;
            }
        }
    }
}
