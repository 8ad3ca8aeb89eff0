//! Every implementation against the one conformance suite.

use eventhubs_processor::checkpoint::conformance::{ConformanceOptions, run_all, run_all_with};
use eventhubs_processor::checkpoint::{
    BlobBackend, BlobCheckpointStoreOptions, InMemoryCheckpointStore, NameCase,
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

for_each_backend! {
    the_emulator_conforms,
    azurite_conforms,
}

async fn the_emulator_conforms(backend: BlobBackend) {
    blob_conforms(&Endpoint::emulator().await, backend).await;
}

async fn azurite_conforms(backend: BlobBackend) {
    let Some(endpoint) = azurite().await else {
        return;
    };
    blob_conforms(&endpoint, backend).await;
}

async fn blob_conforms(endpoint: &Endpoint, backend: BlobBackend) {
    let started = std::time::Instant::now();
    let checks = run_all(&endpoint.store(backend)).await;
    eprintln!("{checks} checks in {:?}", started.elapsed());
    run_all(&endpoint.store_with_signature(backend)).await;
    let verbatim = BlobCheckpointStoreOptions::default()
        .with_backend(backend)
        .with_name_case(NameCase::Verbatim);
    let options = ConformanceOptions::default().with_folds_names(false);
    run_all_with(&endpoint.store_with(verbatim), &options).await;
}
