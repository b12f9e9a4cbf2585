//! Statements to what they mean, and no text that ends the process.

use proptest::prelude::*;

use super::*;
use crate::expression::{Assigned, Comparator, Operand, Source, Step};

fn text(value: &str) -> Value {
    Value::S(value.to_owned())
}

fn number(value: &str) -> Value {
    Value::N(value.parse().unwrap())
}

fn is(name: &str, value: Value) -> Condition {
    Condition::Compare(Operand::Path(Path::attribute(name)), Comparator::Equal, Operand::Value(value))
}

#[test]
fn statements_mean_what_they_say() {
    let statement = r#"SELECT a, b.c[2]."d e" FROM "t-1"."i" WHERE pk = 'it''s' AND (n > -1.5e2 OR x IS NOT MISSING) ORDER BY sk DESC"#;
    let Statement::Select(select) = parse(statement, Vec::new()).unwrap() else { panic!() };
    assert_eq!((select.table.as_str(), select.index.as_deref(), select.descending), ("t-1", Some("i"), true));
    assert_eq!(select.paths[1].steps[1], Step::Index(2));
    let Some(Condition::And(parts)) = select.condition else { panic!() };
    assert_eq!(parts[0], is("pk", text("it's")));
    let Condition::Or(parts) = &parts[1] else { panic!() };
    assert_eq!(
        parts[0],
        Condition::Compare(
            Operand::Path(Path::attribute("n")),
            Comparator::Greater,
            Operand::Value(number("-150"))
        )
    );

    let statement = "insert into t value {'pk': ?, 'l': [1, true, null], 's': <<'a', 'b'>>, 'm': {'x': ?}}";
    let Statement::Insert { item, .. } = parse(statement, vec![text("k"), number("7")]).unwrap() else {
        panic!()
    };
    assert_eq!(item["pk"], text("k"));
    assert_eq!(item["l"], Value::L(vec![number("1"), Value::Bool(true), Value::Null]));
    assert_eq!(item["m"], Value::M(Item::from([("x".to_owned(), number("7"))])));

    let statement = "UPDATE t SET n = n + 1, l = list_append(l, ['x']) SET s = set_add(s, <<1>>) REMOVE old \
                     WHERE pk = 'a' AND sk = 2 AND n < 5 RETURNING MODIFIED NEW *";
    let Statement::Update { update, condition, return_values, .. } = parse(statement, Vec::new()).unwrap()
    else {
        panic!()
    };
    assert_eq!(return_values, ReturnValues::UpdatedNew);
    let one = Assigned::Sum(Source::Path(Path::attribute("n")), Source::Value(number("1")));
    assert_eq!(update.set[0], (Path::attribute("n"), one));
    assert_eq!((update.add.len(), update.remove.len()), (1, 1));
    let (key, rest) = take_key(condition, &["pk", "sk"]).unwrap();
    assert_eq!(key, Item::from([("pk".to_owned(), text("a")), ("sk".to_owned(), number("2"))]));
    assert!(matches!(rest, Some(Condition::Compare(..))));
    assert!(take_key(is("pk", text("a")), &["pk", "sk"]).is_none());
}

#[test]
fn what_is_none_is_refused() {
    for statement in [
        "",
        "SELECTT * FROM t",
        "SELECT * FROM t WHERE",
        "SELECT * FROM t WHERE a = 'x",
        "INSERT INTO t VALUE 7",
        "UPDATE t WHERE a = 1",
        "DELETE FROM t",
        "SELECT * FROM t WHERE a = ?",
        "SELECT * FROM t; DROP TABLE t",
        "INSERT INTO t VALUE {'a': <<1, 'x'>>}",
    ] {
        assert!(parse(statement, Vec::new()).is_err(), "{statement}");
    }
    assert!(parse("SELECT * FROM t", vec![Value::Null]).is_err());
    let deep = format!("SELECT * FROM t WHERE {}a = 1", "(".repeat(4000));
    assert!(parse(&deep, Vec::new()).is_err());
    let deep = format!("INSERT INTO t VALUE {{'a': {}1", "[".repeat(4000));
    assert!(parse(&deep, Vec::new()).is_err());
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(words in prop::collection::vec(
        prop_oneof![
            Just("SELECT"), Just("*"), Just("FROM"), Just("t"), Just("WHERE"), Just("a"), Just("="), Just("'x'"),
            Just("AND"), Just("NOT"), Just("("), Just(")"), Just("["), Just("]"), Just("{"), Just("}"), Just("<<"),
            Just(">>"), Just("?"), Just("UPDATE"), Just("SET"), Just("INSERT"), Just("INTO"), Just("VALUE"), Just("-"),
            Just("1e"), Just("1.5"), Just("\"q\""), Just("IN"), Just("BETWEEN"), Just("IS"), Just("MISSING"), Just("ä"),
        ],
        0..30,
    ), joined in any::<bool>()) {
        let _any = parse(&words.join(if joined { " " } else { "" }), Vec::new());
    }
}
