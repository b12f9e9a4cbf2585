//! Expressions from text to outcome, and what is refused with which words.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::parse::Placeholders;
use super::*;
use crate::error::Invalid;
use crate::item::Item;

fn n(text: &str) -> Value {
    Value::N(text.parse().unwrap())
}

fn s(text: &str) -> Value {
    Value::S(text.to_owned())
}

fn item() -> Item {
    Item::from([
        ("pk".into(), s("p")),
        ("count".into(), n("5")),
        ("text".into(), s("hello world")),
        ("blob".into(), Value::B(Bytes::from_static(b"\x01\x02"))),
        ("yes".into(), Value::Bool(true)),
        ("nothing".into(), Value::Null),
        ("tags".into(), Value::Ss(BTreeSet::from(["a".into(), "b".into()]))),
        ("ns".into(), Value::Ns(BTreeSet::from(["1".parse().unwrap(), "2".parse().unwrap()]))),
        ("ls".into(), Value::L(vec![n("1"), s("two"), Value::M(Item::from([("deep".into(), n("3"))]))])),
        ("doc".into(), Value::M(Item::from([("xi".into(), s("x")), ("n".into(), n("1"))]))),
    ])
}

fn placeholders() -> Placeholders {
    let names = BTreeMap::from([
        ("#c".into(), "count".into()),
        ("#missing".into(), "gone".into()),
        ("#t".into(), "text".into()),
    ]);
    let values = BTreeMap::from([
        (":five".into(), n("5")),
        (":six".into(), n("6")),
        (":text".into(), s("hello")),
        (":a".into(), s("a")),
        (":empty".into(), s("")),
        (":true".into(), Value::Bool(true)),
        (":type".into(), s("N")),
        (":ls".into(), Value::L(vec![n("9")])),
        (":set".into(), Value::Ss(BTreeSet::from(["b".into(), "c".into()]))),
        (":ab".into(), Value::Ss(BTreeSet::from(["a".into(), "b".into()]))),
    ]);
    Placeholders::new(names, values)
}

fn condition(text: &str) -> Result<Condition, Invalid> {
    parse::condition("ConditionExpression", text, &mut placeholders())
}

#[test]
fn conditions_hold_or_do_not() {
    for (text, expected) in [
        ("#c = :five", true),
        ("#c <> :five", false),
        ("#c < :six AND #c >= :five", true),
        ("#c = :text", false),
        ("#missing = :five", false),
        ("#missing <> :five", true),
        ("#missing < :five", false),
        ("NOT #missing < :five", true),
        ("#c BETWEEN :five AND :six", true),
        ("#c between :six and :six", false),
        ("#c IN (:text, :five)", true),
        ("#c IN (:text)", false),
        ("attribute_exists(doc.xi)", true),
        ("attribute_exists(ls[2].deep)", true),
        ("attribute_exists(ls[3])", false),
        ("attribute_not_exists(#missing)", true),
        ("attribute_type(#c, :type)", true),
        ("attribute_type(pk, :type)", false),
        ("begins_with(#t, :text)", true),
        ("begins_with(#t, :empty)", true),
        ("contains(#t, :text)", true),
        ("contains(tags, :a)", true),
        ("contains(ls, :five)", false),
        ("size(tags) < :five", true),
        ("size(#t) > :six", true),
        ("size(#c) > :six", false),
        ("yes = :true", true),
        // AND binds stronger than OR, NOT stronger than AND.
        ("#c = :five OR #c = :six AND #missing = :a", true),
        ("(#c = :five OR #c = :six) AND #missing = :a", false),
        ("NOT #c = :six AND #c = :five", true),
        ("NOT (#c = :five AND #c = :five)", false),
        ("not not #c = :five", true),
        (":five = #c", true),
    ] {
        let parsed = condition(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(evaluate::holds(&item(), &parsed), expected, "{text}");
        let stored = codec::encode_condition(Some(&parsed));
        assert_eq!(codec::decode_condition(stored.clone()).unwrap(), Some(parsed), "{text}");
        for end in 1..stored.len() {
            assert!(codec::decode_condition(stored.slice(..end)).is_err(), "{text} cut at {end}");
        }
    }
}

#[test]
fn what_is_no_condition_is_refused_with_the_words_of_dynamodb() {
    for (text, expected) in [
        ("", "The expression can not be empty;"),
        ("!!", "Syntax error; token: \"!\", near: \"!!\""),
        ("pk =", "Syntax error; token: \"<EOF>\", near: \"=\""),
        ("pk = :five extra", "Syntax error; token: \"extra\", near: \":five extra\""),
        ("pk == :five", "Syntax error; token: \"=\", near: \"== :five\""),
        ("count = :five", "Attribute name is a reserved keyword; reserved keyword: count"),
        ("doc.value = :five", "Attribute name is a reserved keyword; reserved keyword: value"),
        (
            "pk = :none",
            "An expression attribute value used in expression is not defined; attribute value: :none",
        ),
        (
            "#none = :five",
            "An expression attribute name used in the document path is not defined; attribute name: #none",
        ),
        ("starts_with(pk, :a)", "Invalid function name; function: starts_with"),
        ("BEGINS_WITH(pk, :a)", "Invalid function name; function: BEGINS_WITH"),
        (
            "begins_with(pk)",
            "Incorrect number of operands for operator or function; operator or function: begins_with, number of operands: 1",
        ),
        (
            "begins_with(pk, :five)",
            "Incorrect operand type for operator or function; operator or function: begins_with, operand type: N",
        ),
        (
            "pk < :true",
            "Incorrect operand type for operator or function; operator or function: <, operand type: BOOL",
        ),
        (
            "pk = pk",
            "The first operand must be distinct from the remaining operands for this operator or function; operator: =, first operand: [pk]",
        ),
        (
            "pk BETWEEN :six AND :five",
            "The BETWEEN operator requires upper bound to be greater than or equal to lower bound; lower bound operand: AttributeValue: {N:6}, upper bound operand: AttributeValue: {N:5}",
        ),
        ("((pk = :a))", "The expression has redundant parentheses;"),
        (
            "attribute_exists(:a)",
            "Operator or function requires a document path; operator or function: attribute_exists",
        ),
    ] {
        let refused = condition(text).expect_err(text).to_string();
        assert_eq!(refused, format!("Invalid ConditionExpression: {expected}"), "{text}");
    }
    assert!(condition("((pk = :a) AND (pk = :a))").is_ok(), "these are not redundant");
    let deep = "(".repeat(2000);
    assert!(condition(&deep).unwrap_err().to_string().contains("EXPRESSION_DEPTH_MAX"));
    let nots = "NOT ".repeat(1000) + "pk = :a";
    assert!(condition(&nots).is_err());
    assert!(condition(&"x".repeat(4097)).unwrap_err().to_string().ends_with("expression size: 4097"));
    let many = vec!["pk = :a"; 302].join(" OR ");
    assert!(condition(&many).unwrap_err().to_string().contains("maximum operator count: 300"));
}

#[test]
fn placeholders_that_nothing_uses_are_refused() {
    let mut placeholders = Placeholders::new(
        BTreeMap::from([("#a".into(), "x".into()), ("#b".into(), "y".into())]),
        BTreeMap::from([(":v".into(), n("1"))]),
    );
    parse::condition("ConditionExpression", "#a = :v", &mut placeholders).unwrap();
    let refused = placeholders.check_used().unwrap_err().to_string();
    assert_eq!(refused, "Value provided in ExpressionAttributeNames unused in expressions: keys: {#b}");
}

fn updated(text: &str) -> Result<Item, Invalid> {
    let mut placeholders = placeholders();
    let parsed = parse::update(text, &mut placeholders)?;
    let stored = codec::encode_update(&parsed);
    assert_eq!(codec::decode_update(stored).unwrap(), parsed, "{text}");
    update::apply(&item(), &parsed)
}

#[test]
fn updates_change_what_they_say_and_nothing_else() {
    let check = |text: &str, path: &str, expected: Option<Value>| {
        let after = updated(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let mut names = Placeholders::new(BTreeMap::from([("#c".into(), "count".into())]), BTreeMap::new());
        let path = parse::projection(path, &mut names).unwrap().remove(0);
        assert_eq!(evaluate::resolve(&after, &path), expected.as_ref(), "{text}");
    };
    check("SET fresh = :five", "fresh", Some(n("5")));
    check("set #c = #c + :six", "#c", Some(n("11")));
    check("SET #c = :five - :six", "#c", Some(n("-1")));
    check("SET #c = if_not_exists(#missing, :six)", "#c", Some(n("6")));
    check("SET #c = if_not_exists(#c, :six) + :six", "#c", Some(n("11")));
    check("SET ls = list_append(ls, :ls)", "ls[3]", Some(n("9")));
    check("SET ls = list_append(:ls, ls)", "ls[0]", Some(n("9")));
    check("SET ls[1] = :a", "ls[1]", Some(s("a")));
    check("SET ls[90] = :a, ls[80] = :five", "ls[3]", Some(n("5")));
    check("SET doc.fresh = :a", "doc.fresh", Some(s("a")));
    check("SET ls[2].deep = :a", "ls[2].deep", Some(s("a")));
    // All values are those before the update.
    check("SET pk2 = #c, #c = :six", "pk2", Some(n("5")));
    check("REMOVE #c", "#c", None);
    check("REMOVE ls[0], ls[1]", "ls[0].deep", Some(n("3")));
    check("REMOVE doc.xi", "doc.xi", None);
    check("REMOVE doc.gone", "doc.n", Some(n("1")));
    check("ADD #c :six", "#c", Some(n("11")));
    check("ADD #missing :six", "gone", Some(n("6")));
    check("ADD tags :set", "tags", Some(Value::Ss(["a", "b", "c"].map(String::from).into())));
    check("DELETE tags :set", "tags", Some(Value::Ss(BTreeSet::from(["a".into()]))));
    check("DELETE tags :ab", "tags", None);
    check("DELETE #missing :set", "gone", None);
    check("SET a1 = :a REMOVE text2 ADD #c :six DELETE tags :set", "#c", Some(n("11")));
}

#[test]
fn what_is_no_update_is_refused_with_the_words_of_dynamodb() {
    for (text, expected) in [
        (
            "SET pk = :a SET sk = :a",
            "Invalid UpdateExpression: The \"SET\" section can only be used once in an update expression;",
        ),
        (
            "INVALID SYNTAX",
            "Invalid UpdateExpression: Syntax error; token: \"INVALID\", near: \"INVALID SYNTAX\"",
        ),
        (
            "SET doc = :a, doc.xi = :a",
            "Invalid UpdateExpression: Two document paths overlap with each other; must remove or rewrite one of these paths; path one: [doc], path two: [doc, xi]",
        ),
        (
            "SET doc.x = :a, doc[1] = :a",
            "Invalid UpdateExpression: Two document paths conflict with each other; must remove or rewrite one of these paths; path one: [doc, x], path two: [doc, [1]]",
        ),
        (
            "ADD pk :text",
            "Invalid UpdateExpression: Incorrect operand type for operator or function; operator: ADD, operand type: STRING, typeSet: ALLOWED_FOR_ADD_OPERAND",
        ),
        (
            "SET pk = :text + :five",
            "Invalid UpdateExpression: Incorrect operand type for operator or function; operator or function: +, operand type: S",
        ),
        (
            "SET pk = pk2 + :five",
            "The provided expression refers to an attribute that does not exist in the item",
        ),
        ("SET pk2 = pk + :five", "An operand in the update expression has an incorrect data type"),
        ("SET gone.xi = :a", "The document path provided in the update expression is invalid for update"),
        ("REMOVE gone.xi", "The document path provided in the update expression is invalid for update"),
        ("ADD pk :five", "An operand in the update expression has an incorrect data type"),
        ("DELETE ns :set", "An operand in the update expression has an incorrect data type"),
    ] {
        assert_eq!(updated(text).expect_err(text).to_string(), expected, "{text}");
    }
}

#[test]
fn a_projection_keeps_the_documents_around_what_it_names() {
    let mut placeholders = Placeholders::default();
    let paths = parse::projection("pk, doc.xi, ls[2].deep, ls[0], gone, pk2.x", &mut placeholders).unwrap();
    assert_eq!(codec::decode_paths(codec::encode_paths(&paths)).unwrap(), paths);
    let expected = Item::from([
        ("pk".into(), s("p")),
        ("doc".into(), Value::M(Item::from([("xi".into(), s("x"))]))),
        ("ls".into(), Value::L(vec![n("1"), Value::M(Item::from([("deep".into(), n("3"))]))])),
    ]);
    assert_eq!(evaluate::project(&item(), &paths), expected);
}

#[test]
fn key_conditions_name_the_partition_and_at_most_one_range() {
    let parse = |text: &str| {
        let parsed = parse::condition(key_condition::KIND, text, &mut placeholders())?;
        key_condition::of(parsed, "pk", Some("sk"))
    };
    assert_eq!(parse("pk = :a").unwrap(), KeyCondition { partition: s("a"), sort: None });
    assert_eq!(
        parse("sk BETWEEN :five AND :six AND :a = pk").unwrap(),
        KeyCondition { partition: s("a"), sort: Some(SortCondition::Between(n("5"), n("6"))) }
    );
    assert_eq!(
        parse("(pk = :a) AND (begins_with(sk, :text))").unwrap().sort,
        Some(SortCondition::BeginsWith(s("hello")))
    );
    for (text, expected) in [
        ("pk > :a", "Query key condition not supported"),
        ("sk = :a", "Query condition missed key schema element: pk"),
        ("pk = :a AND oth = :a", "Query condition missed key schema element: sk"),
        (
            "pk = :a AND sk <> :a",
            "Invalid KeyConditionExpression: Invalid operator used in KeyConditionExpression: <>",
        ),
        (
            "pk = :a OR sk = :a",
            "Invalid KeyConditionExpression: Invalid operator used in KeyConditionExpression: OR",
        ),
    ] {
        assert_eq!(parse(text).expect_err(text).to_string(), expected, "{text}");
    }
}
