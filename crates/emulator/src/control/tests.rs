//! Orders as text.

use super::blob_requests::BlobOrder;
use super::requests::Order;

fn refused(text: &str) -> String {
    let order = serde_json::from_str::<Order>(text);
    order.expect_err(text).to_string()
}

#[test]
fn orders_are_taken_with_their_arguments_only() {
    for text in [
        r#"{"fault":"reset_at","stage":"sasl"}"#,
        r#"{"fault":"disturb_cbs","how":{"how":"late","delay_ms":50},"times":3}"#,
        r#"{"fault":"disturb_cbs","how":{"how":"lost"}}"#,
        r#"{"fault":"skip_deliveries","hub":"h","partition":"0","times":2,"chance":0.5}"#,
        r#"{"fault":"drop_connections"}"#,
        r#"{"fault":"send_bad_frame","frame":"oversize"}"#,
    ] {
        serde_json::from_str::<Order>(text).expect(text);
    }
    assert!(refused(r#"{"fault":"nonsense"}"#).contains("unknown variant"));
    assert!(refused(r#"{"fault":"skip_deliveries"}"#).contains("missing field"));
    assert!(refused(r#"{"fault":"drop_connections","x":1}"#).contains("unknown field"));
    assert!(refused(r#"{"fault":"reset_at","stage":"x"}"#).contains("unknown variant"));
    let text = r#"{"fault":"skip_deliveries","hub":"h","time":2}"#;
    assert!(refused(text).contains("unknown field"));
    let text = r#"{"fault":"disturb_cbs","how":{"how":"lost","x":1}}"#;
    assert!(refused(text).contains("unknown field"));
    let text = r#"{"fault":"fail","status":503,"code":"ServerBusy","operation":"list_blobs"}"#;
    serde_json::from_str::<BlobOrder>(text).expect(text);
}
