use super::*;
use proptest::prelude::*;

/// A call of 3 ms that went well.
struct Call;

impl Item for Call {
    fn field(&self, field: Field) -> Option<Value<'_>> {
        Some(match field {
            Field::Guest => Value::text("g1"),
            Field::Iface => Value::text("android.content.pm.IPackageManager"),
            Field::Dur => Value::Number(3_000_000),
            Field::Result => Value::text("ok"),
            Field::Size => Value::Number(4096),
            Field::Oneway => Value::Bool(false),
            Field::Code => Value::Number(0x5f50_4e47),
            _ => return None,
        })
    }
}

fn picks(text: &str) -> bool {
    Filter::parse(text).unwrap_or_else(|error| panic!("{error}")).picks(&Call)
}

#[test]
fn the_example_of_the_documentation_works() {
    assert!(picks("guest==g1 && iface=~\"IPackage.*\" && dur>2ms || result!=ok"));
    assert!(!picks("guest==g2 && iface=~\"IPackage.*\" && dur>2ms || result!=ok"));
}

#[test]
fn and_binds_tighter_than_or_and_not_tighter_than_both() {
    assert!(picks("guest==g1 || guest==g1 && guest==g2"));
    assert!(!picks("(guest==g1 || guest==g1) && guest==g2"));
    assert!(picks("!guest==g2 && guest==g1"));
    assert!(!picks("!(guest==g2 || guest==g1)"));
    assert!(picks("!!guest==g1"));
}

#[test]
fn values_have_units_and_fields_have_kinds() {
    assert!(picks("dur>=3ms && dur<=3000us && dur==0.003s && dur<1m"));
    assert!(picks("size==4K && size==4096 && size<1M"));
    assert!(picks("!oneway && oneway==false && oneway!=true"));
    assert!(picks("code==0x5f504e47"));
    assert!(picks("iface!~IActivity && iface=~\"^android\" && iface!=\"a b\""));
}

#[test]
fn a_field_that_is_not_there_compares_with_nothing() {
    assert!(!picks("queue<1s"));
    assert!(!picks("service!=x"));
    assert!(picks("!service==x"));
}

#[test]
fn errors_point_at_the_place() {
    let error = |text: &str| Filter::parse(text).unwrap_err();
    let column = |text: &str| error(text).column;
    assert_eq!(column("guest=g1"), 5);
    assert_eq!(column("guest==g1 && ifac==x"), 13);
    assert_eq!(column("guest==g1 &&"), 12);
    assert_eq!(column("dur>2"), 4);
    assert_eq!(column("dur=~2ms"), 3);
    assert_eq!(column("(guest==g1"), 0);
    assert_eq!(column("guest==g1)"), 9);
    assert_eq!(column("guest==g1 iface==x"), 10);
    assert_eq!(column("iface=~\"(\""), 7);
    assert_eq!(column("iface==\"x"), 7);
    assert_eq!(column("pid==many"), 5);
    assert_eq!(column("pid"), 3);
    assert_eq!(column(""), 0);
    assert_eq!(
        error("dur>2").to_string(),
        "dur is a time with a unit, for example 2ms, 150us or 1.5s (column 5)\n    dur>2\n        ^"
    );
    assert!(error("ifac==x").to_string().contains("do you mean iface?"));
    assert!(error(&"(".repeat(5000)).to_string().contains("nested too deep"));
}

proptest! {
    #[test]
    fn any_text_is_an_expression_or_an_error_inside_it(text in "[a-z0-9=!~<>&|() \".ä]{0,40}") {
        if let Err(error) = Filter::parse(&text) {
            prop_assert!(error.column <= text.chars().count());
        }
    }
}
