//! Reports as their askers meet them: formats, refusals, progress, turns.

use axum::http::Request;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::super::tests::Site;
use super::*;

async fn send(site: &Site, method: &str, path: &str, accept: &str) -> Response {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Authorization", format!("Bearer {}", site.admin_token()))
        .header("Accept", accept);
    site.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn text(response: Response) -> String {
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

async fn lines(site: &Site, path: &str) -> Vec<Line> {
    let response = send(site, "GET", path, LINES).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], LINES);
    text(response).await.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_report_comes_in_each_format_with_its_content_type() {
    let site = Site::new();
    site.add_server("web-07").await;
    for (query, kind, begin) in [
        ("", "application/json", "{"),
        ("?format=html", "text/html; charset=utf-8", "<!doctype html>"),
        ("?format=csv", "text/csv; charset=utf-8", "table,"),
        ("?format=text&width=60", "text/plain; charset=utf-8", ""),
    ] {
        for report in Kind::ALL {
            let path = format!("/api/v1/report/{}{query}", report.name());
            let response = send(&site, "GET", &path, "*/*").await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(response.headers()["content-type"], kind, "{path}");
            let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
            assert!(policy.starts_with("default-src 'none'"), "{policy}");
            let told = text(response).await;
            assert!(told.starts_with(begin) && told.ends_with('\n'), "{path}: {told}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_reported_is_refused_with_what_to_do() {
    let site = Site::new();
    site.add_server("web-07").await;
    for (path, status, error) in [
        ("weather", 404, "there is no report \"weather\""),
        ("noise?format=pdf", 400, "format: \"pdf\" is not known"),
        ("noise?from=yesterday", 400, "from: \"yesterday\" is no time"),
        ("noise?from=2026-11-20T12:00:00Z&to=2026-11-19T12:00:00Z", 400, "the report would begin"),
        ("noise?from=2999-01-01T00:00:00Z&to=2999-01-02T00:00:00Z", 400, "the report would begin"),
        ("noise?server=web-7", 404, "there is no server \"web-7\""),
        ("noise?label=rack", 400, "label: \"rack\" is no label"),
        ("noise?label=rack%3Dr9", 404, "no server has rack=r9"),
        ("noise?by=colour", 404, "no server has a label \"colour\""),
        ("noise?slo=99.9", 400, "slo: 99.9 is no objective"),
        ("noise?slo=NaN", 400, "slo: NaN is no objective"),
        ("noise?format=csv&table=nothing", 404, "there is no table \"nothing\""),
        ("noise?table=nothing", 404, "there is no table \"nothing\""),
        ("noise?format=html&table=servers", 400, "table: html has all of them"),
        ("noise?colour=red", 400, "Failed to deserialize query string"),
    ] {
        let (got, body) = site.ask("get", &format!("/api/v1/report/{path}"), Value::Null).await;
        assert_eq!(got, status, "{path}: {body}");
        let told = body["error"].as_str().unwrap();
        assert!(told.starts_with(error), "{path}: {body}");
        assert!(!body["fix"].as_str().unwrap().is_empty(), "{path}: {body}");
    }
}

#[tokio::test]
async fn progress_comes_first_and_the_report_last() {
    let site = Site::new();
    site.add_server("web-07").await;
    let told = lines(&site, "/api/v1/report/outage?format=csv").await;
    let (last, before) = told.split_last().unwrap();
    let Line::Report(rendered) = last else { panic!("{told:?}") };
    assert_eq!(rendered.content_type, "text/csv; charset=utf-8");
    assert!(rendered.text.starts_with("table,"), "{}", rendered.text);
    assert!(before.iter().all(|line| matches!(line, Line::Progress { .. })), "{told:?}");

    let told = lines(&site, "/api/v1/report/outage?server=web-70").await;
    let [Line::Failed { status: 404, body }] = &told[..] else { panic!("{told:?}") };
    assert_eq!(body.error, "there is no server \"web-70\"");
}

#[tokio::test]
async fn who_waits_is_told_so_and_served_in_turn() {
    let site = Site::new();
    site.add_server("web-07").await;
    let before = site.state.desk.ask();
    let told = lines(&site, "/api/v1/report/noise").await;
    assert_eq!(told.first(), Some(&Line::Waiting(1)), "{told:?}");
    assert!(matches!(told.last(), Some(Line::Report(_))), "{told:?}");
    drop(before);
    assert_eq!(site.state.desk.ask().n_before, 0);
}

#[tokio::test]
async fn a_collector_that_stops_says_so_to_who_waits_for_a_report() {
    let site = Site::new();
    site.add_server("web-07").await;
    site.state.stop.cancel();
    let told = lines(&site, "/api/v1/report/noise").await;
    assert!(
        matches!(&told[..], [Line::Failed { status: 503, body }] if body.error == "the collector stops")
    );
}

#[test]
fn lines_are_what_the_documentation_says() {
    let said = |told: &Line| serde_json::to_value(told).unwrap();
    assert_eq!(said(&Line::Waiting(2)), json!({"waiting": 2}));
    let progress = Line::from(Progress { what: "reads", n_done: 1, n: 3 });
    assert_eq!(said(&progress), json!({"progress": {"what": "reads", "n_done": 1, "n": 3}}));
    let report = Rendered { content_type: "text/html".into(), text: "<p>".into() };
    let told = json!({"report": {"content_type": "text/html", "text": "<p>"}});
    assert_eq!(said(&Line::Report(report)), told);
    let failed = Line::from(ApiError::not_found("e", "f"));
    assert_eq!(said(&failed), json!({"status": 404, "error": "e", "fix": "f"}));
}
