//! Every implementation against the one conformance suite.

use eventhubs_processor::checkpoint::conformance::{ConformanceOptions, run_all, run_all_with};
use eventhubs_processor::checkpoint::{
    BlobCheckpointStore, BlobCheckpointStoreOptions, InMemoryCheckpointStore, NameCase,
};

use super::{Endpoint, azurite};

#[tokio::test]
async fn memory_conforms() {
    run_all(&InMemoryCheckpointStore::new()).await;
}

#[tokio::test(start_paused = true)]
async fn memory_conforms_in_virtual_time() {
    run_all(&InMemoryCheckpointStore::new()).await;
}

#[tokio::test]
async fn the_emulator_conforms() {
    blob_conforms(&Endpoint::emulator().await).await;
}

#[tokio::test]
async fn azurite_conforms() {
    let Some(endpoint) = azurite().await else {
        return;
    };
    blob_conforms(&endpoint).await;
}

async fn blob_conforms(endpoint: &Endpoint) {
    let started = std::time::Instant::now();
    let checks = run_all(&endpoint.store()).await;
    eprintln!("{checks} checks in {:?}", started.elapsed());
    run_all(&endpoint.store_with_signature()).await;
    let verbatim = BlobCheckpointStore::from_connection_string_with_options(
        &endpoint.connection_string,
        &endpoint.container,
        BlobCheckpointStoreOptions::default().with_name_case(NameCase::Verbatim),
    );
    let options = ConformanceOptions::default().with_folds_names(false);
    run_all_with(&verbatim.unwrap(), &options).await;
}
