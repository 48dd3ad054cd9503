//! Catalogues with and without errors.

use super::*;

const GOOD: &str = r#"currency = "EUR"

[[plan]]
name = "S"
provider = "northcloud"
vcpu = 2
memory = "4GiB"
disk = "80GB"
price = 9.9

[[plan]]
name = "M"
vcpu = 4.5
memory = "0.5 TiB"
disk = "1 TB"
price = 20
currency = "EUR"
"#;

/// The problems of a catalogue, a line each, must be these beginnings.
fn check(text: &str, expected: &[&str]) {
    let told = match Catalogue::parse("plans.toml", text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    };
    let is_right = told.len() == expected.len()
        && told.iter().zip(expected).all(|(told, expected)| told.starts_with(expected));
    assert!(is_right, "{text}\n{told:#?}\n{expected:#?}");
}

/// A catalogue whose one plan has this line in the place of the one with the same key.
fn with(line: &str) -> String {
    let key = line.split('=').next().unwrap_or_default().trim();
    let plan = ["name = \"S\"", "vcpu = 2", "memory = \"4GiB\"", "disk = \"80GB\"", "price = 9.9"];
    let mut text = "currency = \"EUR\"\n[[plan]]\n".to_owned();
    let mut is_put = false;
    for known in plan {
        let is_it = known.starts_with(&format!("{key} "));
        is_put |= is_it;
        text.push_str(if is_it { line } else { known });
        text.push('\n');
    }
    if !is_put {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[test]
fn a_catalogue_is_read_with_its_units() {
    let catalogue = Catalogue::parse("plans.toml", GOOD).unwrap();
    assert_eq!(catalogue.currency, "EUR");
    let expected = [
        Plan {
            name: "S".into(),
            provider: Some("northcloud".into()),
            vcpu: 2.0,
            memory_bytes: 4 << 30,
            disk_bytes: 80_000_000_000,
            price: 9.9,
        },
        Plan {
            name: "M".into(),
            provider: None,
            vcpu: 4.5,
            memory_bytes: 1 << 39,
            disk_bytes: 1_000_000_000_000,
            price: 20.0,
        },
    ];
    assert_eq!(catalogue.plans, expected);
    for line in
        ["vcpu = 0x10", "price = 0", "disk = \"80gib\"", "name = \" S \"", "memory = \"512MiB\""]
    {
        check(&with(line), &[]);
    }
}

#[test]
fn every_problem_of_a_plan_is_told_with_its_line_and_fix() {
    for (line, expected) in [
        ("name = \"\"", "plans.toml:3: name \"\" is no name: write 1 to 100"),
        ("name = 5", "plans.toml:3: name is no text: write it in quotes"),
        ("name = \"a\\u0000b\"", "plans.toml:3: name \"a\\0b\" is no name"),
        ("vcpu = \"two\"", "plans.toml:4: vcpu of S is no number: write a plain number such as 4"),
        ("vcpu = 0", "plans.toml:4: vcpu of S = 0 is out of range: write 0.1 to 1024"),
        ("vcpu = -2", "plans.toml:4: vcpu of S = -2 is out of range"),
        ("vcpu = 1e9", "plans.toml:4: vcpu of S = 1000000000 is out of range"),
        (
            "memory = 4",
            "plans.toml:5: memory of S is 4 without a unit, no size: write it like \"8GiB\"",
        ),
        ("memory = true", "plans.toml:5: memory of S is a value, no size"),
        ("memory = \"4\"", "plans.toml:5: memory of S is \"4\", no size"),
        ("memory = \"4 pounds\"", "plans.toml:5: memory of S is \"4 pounds\", no size"),
        ("memory = \"-4GiB\"", "plans.toml:5: memory of S is \"-4GiB\", no size"),
        (
            "memory = \"4MiB\"",
            "plans.toml:5: memory of S = \"4MiB\" is out of range: write 64MiB to 64TiB",
        ),
        ("memory = \"9999TiB\"", "plans.toml:5: memory of S = \"9999TiB\" is out of range"),
        ("disk = \"80\"", "plans.toml:6: disk of S is \"80\", no size"),
        (
            "disk = \"1MB\"",
            "plans.toml:6: disk of S = \"1MB\" is out of range: write 100MiB to 1024TiB",
        ),
        ("price = -1", "plans.toml:7: price of S = -1 is out of range: write 0 to 1000000"),
        ("price = nan", "plans.toml:7: price of S = NaN is out of range"),
        ("price = inf", "plans.toml:7: price of S = inf is out of range"),
        (
            "price = \"9.90 EUR\"",
            "plans.toml:7: price of S is no number: write a plain number such as 9.9",
        ),
        ("prize = 3", "plans.toml:8: prize is not known: did you mean price?"),
        ("bandwidth = 3", "plans.toml:8: bandwidth is not known: remove it: known are name, "),
        (
            "currency = \"USD\"",
            "plans.toml:8: the price is in USD, others are in EUR: convert it to EUR",
        ),
        ("currency = \"dollars\"", "plans.toml:8: currency is no currency: write its code"),
        ("provider = \"\"", "plans.toml:8: provider \"\" is no name"),
    ] {
        check(&with(line), &[expected]);
    }
}

#[test]
fn what_is_missing_is_told_for_each_plan() {
    check(
        "currency = \"EUR\"\n[[plan]]\nname = \"S\"\n[[plan]]\nvcpu = 1\nmemory = \"1GiB\"\ndisk = \"9GB\"\n",
        &[
            "plans.toml:2: vcpu of plan \"S\" is missing: write how many",
            "plans.toml:2: memory of plan \"S\" is missing: write its memory",
            "plans.toml:2: disk of plan \"S\" is missing: write its disk",
            "plans.toml:2: price of plan \"S\" is missing: write what it costs a month",
            "plans.toml:4: name of a plan is missing: write the name",
            "plans.toml:4: price of a plan is missing",
        ],
    );
}

#[test]
fn a_file_that_is_no_catalogue_is_told_so() {
    for (text, expected) in [
        ("", &["plans.toml: currency is missing", "plans.toml: there is no plan"][..]),
        (
            "\n# nothing yet\n",
            &["plans.toml:1: currency is missing", "plans.toml:3: there is no plan"],
        ),
        ("currency = \"EUR\"\n", &["plans.toml:2: there is no plan: list at least one"]),
        ("currency = \"EUR\"\nplan = []\n", &["plans.toml:3: there is no plan"]),
        ("currency = \"EUR\"\nplan = 3\n", &["plans.toml:2: plan is no list of tables"]),
        ("currency = \"EUR\"\nplan = [3]\n", &["plans.toml:2: plan is no table"]),
        (
            "currency = \"EUR\"\n[plan]\n",
            &["plans.toml:2: plan is one table: write it in two brackets"],
        ),
        (
            "currency = \"EUR\"\n[[plans]]\n",
            &[
                "plans.toml:2: plans is not known: did you mean plan?",
                "plans.toml:3: there is no plan",
            ],
        ),
        ("currency = \"€\"\n[[plan]\n", &["plans.toml:2: "]),
        ("name,vcpu,price\nS,2,9.9\n", &["plans.toml:1: "]),
    ] {
        let told = Catalogue::parse("plans.toml", text).unwrap_err();
        let told: Vec<String> = told.iter().map(ToString::to_string).collect();
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.starts_with(expected), "{text:?}: {told} {expected}");
        }
        assert!(told.len() >= expected.len(), "{text:?}: {told:?}");
    }
}

#[test]
fn a_plan_that_is_listed_twice_is_told_with_both_lines() {
    let twin = |provider: &str| {
        format!(
            "{GOOD}[[plan]]\nname = \"s\"\n{provider}vcpu = 2\nmemory = \"4GiB\"\ndisk = \"80GB\"\nprice = 1\n"
        )
    };
    check(&twin(""), &[]);
    check(&twin("provider = \"other\"\n"), &[]);
    check(
        &twin("provider = \"Northcloud\"\n"),
        &["plans.toml:19: plan \"s\" is also in line 3: give it another name"],
    );
}

#[test]
fn a_catalogue_of_thousands_of_plans_or_problems_is_refused_in_few_words() {
    let many = "currency = \"EUR\"\n".to_owned() + &"[[plan]]\n".repeat(PLANS_MAX + 1);
    check(&many, &["plans.toml:1: there are 2001 plans: list 2000 at most"]);
    let bad = "currency = \"EUR\"\n".to_owned() + &"[[plan]]\n".repeat(PLANS_MAX);
    assert_eq!(Catalogue::parse("plans.toml", &bad).unwrap_err().len(), 50);
}

#[test]
fn a_plan_is_found_by_its_name_and_best_by_its_provider() {
    let catalogue = Catalogue::parse("plans.toml", GOOD).unwrap();
    let find = |name, provider| catalogue.find(name, provider).map(|plan| plan.name.as_str());
    assert_eq!(find("s", Some("NorthCloud")), Some("S"));
    assert_eq!(find("S", None), Some("S"));
    assert_eq!(find("S", Some("other")), None);
    assert_eq!(find("M", Some("other")), Some("M"), "of any provider");
    assert_eq!(find("XL", Some("northcloud")), None);
}

proptest::proptest! {
    #[test]
    fn no_text_breaks_the_reader(text in "(currency = \"EUR\"\n)?(\\[\\[plan\\]\\]\n|(name|vcpu|memory|disk|price|plan) = (-?[0-9.e]{1,6}|\"[ -~é]{0,8}\"|nan|\\[\\])\n){0,12}\\PC{0,9}") {
        if let Err(problems) = Catalogue::parse("p", &text) {
            proptest::prop_assert!(!problems.is_empty());
        }
    }
}
