use super::*;
use crate::model::Model;
use crate::model::tests::{header, world};
use crate::recording::{Lost, Record};
use binder::GuestId;
use std::sync::Arc;

fn validator() -> jsonschema::Validator {
    jsonschema::validator_for(&serde_json::from_str(SCHEMA_TEXT).unwrap()).unwrap()
}

/// All lines of the small world.
fn lines() -> Vec<Json> {
    let table = Arc::new(Table::default());
    let mut model = Model::new(&header(Some(14)), 1, table.clone());
    let mut lines = vec![super::header(&header(Some(14)))];
    let missing = Lost { guest: Some(GuestId(0)), messages: 2, events: 3 };
    lines.extend([missing, Lost { guest: None, ..missing }].map(|missing| lost(&model, &missing)));
    for record in world() {
        let ended = model.record(&record);
        if let Record::Event(stamped) = &record {
            lines.push(event(&Event::new(&model, stamped, ended.as_ref())));
        }
        lines.extend(ended.map(|ended| call(&ended, &table)));
    }
    lines.extend(model.finish().iter().map(|open| call(open, &table)));
    lines
}

#[test]
fn every_line_follows_the_schema() {
    let validator = validator();
    for line in lines() {
        let errors: Vec<String> = validator.iter_errors(&line).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?} in {line}");
    }
}

#[test]
fn the_schema_refuses_other_lines() {
    let validator = validator();
    let call = lines().into_iter().find(|line| line["kind"] == "call").unwrap();
    for (field, value) in
        [("at_ns", json!("1")), ("surprise", json!(1)), ("kind", json!("other")), ("depth", json!(-1))]
    {
        let mut wrong = call.clone();
        wrong[field] = value;
        assert!(!validator.is_valid(&wrong), "{field}");
    }
    let mut short = call.clone();
    short.as_object_mut().unwrap().remove("client");
    assert!(!validator.is_valid(&short));
}

#[test]
fn a_call_has_its_arguments() {
    let lines = lines();
    let call = lines.iter().find(|line| line["method"] == "addService" && line["kind"] == "call").unwrap();
    assert_eq!(call["arguments"]["values"][0], json!({ "name": "name", "value": "demo" }));
    assert_eq!(call["arguments"]["values"][1]["value"]["node"], 7);
    assert_eq!(call["client"], json!({ "pid": 2, "tid": 2, "proc": "service", "thread": "service" }));
}
