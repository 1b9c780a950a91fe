use super::*;
use crate::parse;

static NO_ARGS: BTreeMap<String, String> = BTreeMap::new();

fn known_base(_: &BaseRequest<'_>) -> Option<BaseFacts> {
    Some(BaseFacts { env: vec![("BASE_ENV".to_owned(), "x".to_owned())], ..BaseFacts::default() })
}

/// The findings as `Rule line`, with what `change` does to the context.
fn found_with<'a>(text: &str, change: impl FnOnce(&mut LintContext<'a>)) -> String {
    let (file, diagnostics) = parse(text);
    let mut context = LintContext::new(&NO_ARGS);
    context.predefined_args.insert("TARGETPLATFORM".to_owned(), "linux/amd64".to_owned());
    context.base = &known_base;
    context.all_stages = true;
    if let Some(check) = &file.directives.check {
        context.options = LintOptions::parse(&check.value).unwrap();
    }
    change(&mut context);
    let outcome = lint(&file, &diagnostics, &context);
    let list: Vec<String> = outcome.warnings.iter().map(|w| format!("{} {}", w.rule, w.lines.first)).collect();
    list.join(", ")
}

fn found(text: &str) -> String {
    found_with(text, |_| {})
}

#[test]
fn each_rule_finds_its_mistake() {
    for (text, expected) in [
        ("FROM scratch AS Build\n", "StageNameCasing 1"),
        ("FROM scratch as one\nFROM scratch As two\n", "FromAsCasing 1, FromAsCasing 2"),
        ("FROM scratch\nENV A=1 \\\n\n B=2\n", "NoEmptyContinuation 4"),
        ("FROM scratch\nenv A=1\nLABEL a=b\n", "ConsistentInstructionCasing 2"),
        ("FROM scratch AS a\nFROM scratch AS a\n", "DuplicateStageName 2"),
        ("FROM a:1 AS context\n", "ReservedStageName 1"),
        ("FROM scratch\nCMD a\nENTRYPOINT [\"b\"]\n", "JSONArgsRecommended 2"),
        ("FROM scratch\nSHELL [\"sh\"]\nCMD a\n", ""),
        ("FROM scratch\nMAINTAINER me\n", "MaintainerDeprecated 2"),
        ("FROM a${X}b:1\n", "UndefinedArgInFrom 1"),
        ("FROM a:1\nWORKDIR one\nWORKDIR two\n", "WorkdirRelativePath 2"),
        ("FROM a:1\nWORKDIR /one\nWORKDIR two\n", ""),
        ("FROM a:1\nENV A=$NOPE$BASE_ENV$PATH B='$NOPE'\n", "UndefinedVar 2"),
        ("FROM a:1\nARG B\nCOPY a $B$C\nRUN --mount=target=$D x\n", "UndefinedVar 3, UndefinedVar 4"),
        ("FROM a:1\nCMD [\"a\"]\nCMD [\"b\"]\n", "MultipleInstructionsDisallowed 2"),
        ("FROM a:1\nENV A b\nLABEL c d\n", "LegacyKeyValueFormat 2, LegacyKeyValueFormat 3"),
        ("FROM --platform=$TARGETPLATFORM a:1\n", "RedundantTargetPlatform 1"),
        ("FROM --platform=linux/arm64 a:1 AS x\n", "FromPlatformFlagConstDisallowed 1"),
        ("FROM --platform=linux/arm64 a:1 AS x-arm64\n", ""),
        ("FROM a:1\nARG API_TOKEN\nENV TOKEN_FILE=1 MONKEY=2\n", "SecretsUsedInArgOrEnv 2"),
        ("ARG A\nFROM $A\n", "InvalidDefaultArgInFrom 2"),
        ("FROM a:1\nEXPOSE 80/TCP 1:2\n", "ExposeInvalidFormat 2, ExposeProtoCasing 2"),
        ("# check=experimental=all\nFROM a:1\n\n# x is\nARG y\n", "InvalidDefinitionDescription 5"),
    ] {
        assert_eq!(found_with(text, |context| context.options.own_rules = false), expected, "{text}");
    }
}

#[test]
fn own_rules() {
    for (text, expected) in [
        ("FROM a:1\nCOPY a b /c\nCOPY a b /c/\nCOPY a b .\n", "CopySeveralSourcesToFile 2"),
        ("FROM a:1\nRUN apt-get update && apt-get install x\n", "AptGetCleanup 2"),
        ("FROM a:1\nRUN apt-get update\n", "AptGetCleanup 2, AptGetUpdateApart 2"),
        ("FROM a:1\nRUN apt-get update && apt-get -y install x && rm -rf /var/lib/apt/lists/*\n", ""),
        ("FROM a:1\nRUN <<E\na\nb\nE\n", "HeredocWithoutErrexit 2"),
        ("FROM a:1\nRUN <<E\nset -eux\na\nb\nE\n", ""),
        ("FROM a:1\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN <<E\na\nb\nE\n", ""),
        ("FROM a:1\nRUN <<E\na\nE\n", ""),
        ("FROM a:1\nCOPY x /app/\nRUN chown -R a /app\n", "ChangeModeInLaterLayer 3"),
        ("FROM a:1\nCOPY x /app/\nRUN chown -R a /data\n", ""),
        ("FROM a:1\nARG V\nRUN a\nRUN b $V\n", "ArgBeforeItsUse 2"),
        ("FROM a:1\nARG V\nRUN b ${V}\n", ""),
        ("FROM a AS b\nFROM a:latest\nFROM b\nFROM scratch\n", "UnpinnedBaseImage 1, UnpinnedBaseImage 2"),
    ] {
        assert_eq!(found(text), expected, "{text}");
        assert_eq!(found_with(text, |context| context.options.own_rules = false), "", "{text}");
    }
}

#[test]
fn copied_files_that_are_ignored() {
    let text = "FROM a:1 AS x\nCOPY ./private//a b/ /\nADD https://private /x\nFROM a:1\nCOPY --from=x private /x\n";
    let ignored = |path: &str| path == "private/a" || path == "private";
    assert_eq!(found_with(text, |context| context.ignored = Some(&ignored)), "CopyIgnoredFile 2");
}

#[test]
fn base_images_of_another_platform() {
    let base =
        |_: &BaseRequest<'_>| Some(BaseFacts { platform: Some("linux/arm64/v8".to_owned()), ..BaseFacts::default() });
    assert_eq!(found_with("FROM a:1\n", |context| context.base = &base), "InvalidBaseImagePlatform 1");
    let text = "FROM --platform=linux/arm64 a:1 AS arm64\n";
    assert_eq!(found_with(text, |context| context.base = &base), "");
}

#[test]
fn stages_that_are_not_needed() {
    let text = "FROM scratch AS Unused\nENV A 1\nFROM scratch AS mid\nENV B 1\nFROM scratch\nCOPY --from=1 a b\n";
    let needed = found_with(text, |context| context.all_stages = false);
    assert_eq!(needed, "StageNameCasing 1, LegacyKeyValueFormat 4");
}

#[test]
fn triggers_are_reported_where_they_fire() {
    let text = "FROM a:1 AS p\nONBUILD ENV A 1\nFROM p\n";
    assert_eq!(found(text), "LegacyKeyValueFormat 3");
}

#[test]
fn skipping() {
    for (text, expected) in [
        ("# check=skip=all\nFROM scratch as A\nMAINTAINER x\n", ""),
        ("# check=skip=StageNameCasing, MaintainerDeprecated\nFROM scratch as A\nMAINTAINER x\n", "FromAsCasing 2"),
        ("FROM scratch\n# check=skip=all\nMAINTAINER x\n", ""),
        ("FROM scratch\n# check=skip=all\n\nMAINTAINER x\n", "MaintainerDeprecated 4"),
    ] {
        assert_eq!(found(text), expected, "{text}");
    }
}

#[test]
fn errors_end_the_look() {
    let none = BTreeMap::new();
    for (text, rules, message) in [
        ("FROM scratch AS A\nMAINTAINER x\nFETCH y\nMAINTAINER z\n", "StageNameCasing MaintainerDeprecated", "FETCH"),
        ("FROM scratch\nMAINTAINER x\nCMD [1]\n", "", "strings"),
        ("FROM scratch\nENV A b\nENV B=${C:?gone}\nENV D e\n", "LegacyKeyValueFormat UndefinedVar", "C: gone"),
        ("FROM scratch\nSTOPSIGNAL NOPE\n", "", "signal"),
        ("# check=error=true\nFROM scratch AS A\n", "StageNameCasing", "StageNameCasing"),
    ] {
        let (file, diagnostics) = parse(text);
        let mut context = LintContext::new(&none);
        if let Some(check) = &file.directives.check {
            context.options = LintOptions::parse(&check.value).unwrap();
        }
        let outcome = lint(&file, &diagnostics, &context);
        let names: Vec<&str> = outcome.warnings.iter().map(|warning| warning.rule).collect();
        assert_eq!(names.join(" "), rules, "{text}");
        assert!(outcome.error.unwrap().message.contains(message), "{text}");
    }
}

#[test]
fn reports() {
    let none = BTreeMap::new();
    let (file, diagnostics) = parse("FROM scratch\nMAINTAINER x\n");
    let outcome = lint(&file, &diagnostics, &LintContext::new(&none));
    let json = serde_json::to_value(JsonReport::new(&outcome, &file, "Dockerfile")).unwrap();
    assert_eq!(json["warnings"][0]["ruleName"], "MaintainerDeprecated");
    assert_eq!(json["warnings"][0]["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(json["sources"][0]["filename"], "Dockerfile");
    assert!(json.get("buildError").is_none());
    let text = TextReport { outcome: &outcome, file: &file, filename: "Dockerfile" }.to_string();
    assert!(text.contains("1 warning has been found"), "{text}");
    assert!(text.contains("   2 | >>> MAINTAINER x"), "{text}");
}

#[test]
fn rules_have_names_of_their_own() {
    let names: BTreeSet<&str> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(names.len(), RULES.len());
    assert_eq!(RULES.iter().filter(|rule| rule.group == RuleGroup::BuildKit).count(), 22);
}
