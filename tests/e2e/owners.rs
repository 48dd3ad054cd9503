//! Whose a site is goes from the configuration of its server to the people who read reports.

use std::time::Duration;

use harness::{AgentSpec, Fleet, Root, eventually};

const LIMIT: Duration = Duration::from_secs(30);

/// Two sites in pools of their own, one of them run by the web server's user.
fn configure(root: &Root, user: &str) {
    let site = |name: &str| {
        format!(
            "server {{ server_name {name}.example; access_log /var/log/nginx/{name}.log;\n\
             location / {{ fastcgi_pass unix:/run/php/{name}.sock; }} }}\n"
        )
    };
    let nginx = format!("http {{\n{}{}}}\n", site("shop"), site("common"));
    root.write("etc/nginx/nginx.conf", &nginx);
    for (pool, user) in [("shop", user), ("common", "www-data")] {
        let text = format!("[{pool}]\nuser = {user}\nlisten = /run/php/{pool}.sock\n");
        root.write(&format!("etc/php/8.3/fpm/pool.d/{pool}.conf"), &text);
        root.write(&format!("var/log/nginx/{pool}.log"), "");
    }
}

#[test]
fn the_owner_of_a_site_is_shown_and_follows_the_configuration() {
    let root = Root::new();
    configure(&root, "alice");
    let agent = AgentSpec::new("web-1").root(&root);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    for owner in ["alice", "bob"] {
        configure(&root, owner);
        let wanted =
            ["  common.example  common".to_owned(), format!("  shop.example  shop  owner {owner}")];
        eventually("the owner is shown", LIMIT, || {
            let page = fleet.cli(&["agent", "show", "web-1"]).good()?;
            let has = |line: &String| page.lines().any(|shown| shown == line);
            if wanted.iter().all(has) { Ok(()) } else { Err(page) }
        });
    }
    let told = fleet.cli(&["agent", "show", "web-1", "--json"]).good().expect("it runs");
    let told: serde_json::Value = serde_json::from_str(&told).expect("it is JSON");
    let owners: Vec<&serde_json::Value> =
        told["sites"].as_array().expect("a list").iter().map(|site| &site["owner"]).collect();
    assert_eq!(owners, [&serde_json::Value::Null, &"bob".into()]);
}
