//! `GET /api/v1/openapi.json`: the routes as OpenAPI 3.1. One table; a test asks every row of it.

use serde_json::{Value, json};

/// Method, path, what it does, status of success.
pub(super) const OPERATIONS: &[(&str, &str, &str, u16)] = &[
    ("get", "/healthz", "The process lives. No token needed.", 200),
    (
        "get",
        "/readyz",
        "The detector has caught up and the database answers. No token needed.",
        200,
    ),
    ("get", "/metrics", "OpenMetrics text, names gatewatch_*.", 200),
    ("get", "/api/v1/openapi.json", "This document. No token needed.", 200),
    (
        "get",
        "/api/v1/incidents",
        "Incidents, newest first. Query: open, since, merged, limit.",
        200,
    ),
    ("get", "/api/v1/incidents/{id}", "One incident; a beginning of its id is enough.", 200),
    ("post", "/api/v1/incidents/{id}/ack", "Takes an incident. Body: {\"by\"}.", 200),
    ("post", "/api/v1/incidents/{id}/notes", "Adds a note. Body: {\"by\",\"text\"}.", 200),
    (
        "get",
        "/api/v1/incidents/{id}/evidence",
        "Times, order of onset, servers, steal and losses of an incident, for a support ticket.",
        200,
    ),
    ("get", "/api/v1/incidents/{id}/evidence.html", "The same as a page that prints well.", 200),
    ("get", "/api/v1/health", "How the collector itself is: uplink, disk, damage, backups.", 200),
    (
        "get",
        "/api/v1/backup",
        "A backup as a tar, made while it is read. It holds secrets. One at a time.",
        200,
    ),
    (
        "post",
        "/api/v1/quarantine/check",
        "Looks again at damaged history and serves what is sound by now.",
        200,
    ),
    ("get", "/api/v1/agents", "The fleet by name.", 200),
    ("get", "/api/v1/agents/{name}", "One server with labels, certificates, sites, ledger.", 200),
    ("delete", "/api/v1/agents/{name}", "Forgets a server; refused while it is connected.", 204),
    (
        "patch",
        "/api/v1/agents/{name}/labels",
        "Sets operator labels; \"\" takes one away. Body: {k:v}.",
        200,
    ),
    ("post", "/api/v1/agents/{name}/revoke", "Revokes every certificate of a server.", 200),
    ("get", "/api/v1/tokens", "Join tokens, newest first, without secrets.", 200),
    (
        "post",
        "/api/v1/tokens",
        "Makes a join token. Body: {\"labels\",\"ttl\",\"uses\",\"replace\"}.",
        201,
    ),
    ("delete", "/api/v1/tokens/{id}", "Revokes a join token.", 204),
    (
        "get",
        "/api/v1/silences",
        "Maintenance windows that are not over, newest first. Query: all.",
        200,
    ),
    (
        "post",
        "/api/v1/silences",
        "Makes one. Body: {\"match\",\"starts_at\",\"ends_at\",\"reason\",\"by\"}.",
        201,
    ),
    (
        "delete",
        "/api/v1/silences/{id}",
        "Ends one; a beginning of its id is enough. Query: by.",
        204,
    ),
    (
        "get",
        "/api/v1/notify/log",
        "What became of each page on each route, and why. Query: incident, route, since, limit.",
        200,
    ),
    ("get", "/api/v1/notify/routes", "The receivers, and how each stands.", 200),
    (
        "post",
        "/api/v1/notify/routes/{name}/test",
        "Sends a test message now; 502 when it does not arrive.",
        200,
    ),
    (
        "get",
        "/api/v1/counts",
        "Exact requests by site and status, crawlers apart. Query: server, from, to.",
        200,
    ),
    (
        "get",
        "/api/v1/series",
        "Samples of a metric of one server; counters as rates a second; `source` says whether from \
         samples, hours or both. Query: server, metric, attribute, from, to, step.",
        200,
    ),
    (
        "get",
        "/api/v1/metrics-known",
        "Metrics that are kept, with units and attributes. Query: metric.",
        200,
    ),
    (
        "get",
        "/api/v1/top",
        "Servers with the highest values of a metric. Query: metric, stat, from, to, k, label.",
        200,
    ),
    (
        "get",
        "/api/v1/export",
        "The recorded fleet as JSON lines, input of `replay`; gzip where accepted. The last record is \
         {\"type\":\"end\"}, with \"holes\":[{from,to,why,server}] where history is missing: times in ms, \
         server null for all; \"packed_to\" is until when it is of packed hours, whose arrivals are not \
         kept. Query: from, to.",
        200,
    ),
    (
        "get",
        "/api/v1/localize",
        "What failing requests have in common, best first. Query: from, to, by.",
        200,
    ),
    (
        "get",
        "/api/v1/report/{kind}",
        "A report: capacity, outage or noise. With `Accept: application/x-ndjson` as JSON lines: \
         {\"waiting\"}, {\"progress\":{what,n_done,n}}, then {\"report\":{content_type,text}} or an error. \
         Query: format (json, html, csv, text), from, to, server, label, table, slo, by, width.",
        200,
    ),
    (
        "post",
        "/api/v1/report/{kind}",
        "The same with other plans than those of the config. Body: the list of plans, TOML.",
        200,
    ),
    ("get", "/api/v1/stream", "Server-sent events: each change of an incident.", 200),
];

/// The document.
pub(super) fn document() -> Value {
    let mut paths = serde_json::Map::new();
    for (method, path, summary, status) in OPERATIONS {
        let parameters: Vec<Value> = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .collect();
        let success = json!({ "description": "success" });
        let operation = json!({
            "summary": summary,
            "parameters": parameters,
            "responses": { status.to_string(): success, "default": {
                "description": "anything else",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            } },
        });
        let entry = paths.entry(*path).or_insert_with(|| json!({}));
        entry[*method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "gatewatch collector", "version": env!("CARGO_PKG_VERSION") },
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Error": {
                "type": "object",
                "required": ["error", "fix"],
                "properties": { "error": {"type": "string"}, "fix": {"type": "string"} },
            } },
        },
    })
}
