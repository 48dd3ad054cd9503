//! A read of history ends when whoever asked for it is gone.

use super::*;

/// Every hour there ever was is packed: a read of them never ends by itself.
const ENDLESS: &str = "DROP TABLE sealed;
    CREATE VIEW sealed AS WITH RECURSIVE hour(t0) AS (SELECT 0 UNION ALL SELECT t0 + 3600 FROM hour)
    SELECT t0, 0 AS hot_cut, 1 AS parts, 0 AS at, 0 AS rolled, 0 AS n_bytes FROM hour;";

/// Waits until so many reads of history may begin.
async fn n_turns_are(site: &Site, n: usize) {
    let there = async {
        while site.state.store.n_long_turns() != n {
            tokio::task::yield_now().await;
        }
    };
    let n_now = || site.state.store.n_long_turns();
    // Reads end by themselves after 15 s at the earliest.
    let waited = tokio::time::timeout(Duration::from_secs(12), there).await;
    assert!(waited.is_ok(), "{} turns, not {n}", n_now());
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_any_more_gives_its_turn_back() {
    let site = Site::new();
    site.add_server("web-07").await;
    site.state.store.write(|tx| tx.execute_batch(ENDLESS)).await.unwrap();
    let n_free = site.state.store.n_long_turns();
    let span = "from=2026-11-20T12:00:00Z&to=2026-11-20T13:00:00Z";
    for path in [
        format!("series?server=web-07&metric=system.cpu.steal&{span}"),
        format!("top?metric=system.cpu.steal&{span}"),
        format!("export?{span}"),
    ] {
        let request = Request::builder()
            .uri(format!("/api/v1/{path}"))
            .header("Authorization", format!("Bearer {}", site.admin_token()))
            .body(Body::empty())
            .unwrap();
        let router = site.router.clone();
        let asked = tokio::spawn(async move {
            let response = router.oneshot(request).await.unwrap();
            axum::body::to_bytes(response.into_body(), 1 << 20).await
        });
        n_turns_are(&site, n_free - 1).await;
        asked.abort();
        n_turns_are(&site, n_free).await;
        assert!(asked.await.unwrap_err().is_cancelled(), "{path}: it was not answered before");
    }
}
