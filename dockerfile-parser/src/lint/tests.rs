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
fn faults_that_end_a_build_are_told() {
    for (text, message) in [
        ("FROM --platform=linux/ a:1 AS x\n", "failed to parse platform linux/"),
        ("FROM Upper\n", "failed to parse stage name \"Upper\""),
        ("FROM scratch\nCOPY --from=2 / /\n", "invalid stage index 2"),
        ("FROM scratch\nCOPY --from=a:b:c / /\n", "failed to parse stage name \"a:b:c\""),
        ("FROM scratch AS a\nCOPY --from=b / /\nFROM a AS b\n", "cannot copy from stage \"b\""),
        ("FROM scratch AS a\nRUN --mount=from=b,target=/x y\nFROM a AS b\n", "cannot copy from stage \"b\""),
        ("FROM scratch\nCOPY --chmod=9 a /\n", "invalid chmod parameter"),
        ("FROM scratch\nCOPY http://a.b/c /\n", "source can't be a URL for COPY"),
        ("FROM scratch\nADD --checksum=x a /\n", "checksum requires HTTP(S) or Git sources"),
        ("FROM scratch\nADD --checksum=x http://a.b/c d /\n", "multiple sources"),
        ("FROM scratch\nVOLUME $x\n", "empty string"),
    ] {
        let (file, diagnostics) = parse(text);
        let arguments = BTreeMap::new();
        let context = LintContext { all_stages: true, ..LintContext::new(&arguments) };
        let error = lint(&file, &diagnostics, &context).error;
        assert!(error.as_ref().is_some_and(|error| error.message.contains(message)), "{text}: {error:?}");
    }
    for text in [
        "FROM scratch AS a\nFROM scratch\nCOPY --from=0 / /\nCOPY --from=A / /\nCOPY --from=scratch / /\n",
        "FROM scratch\nARG none=\nCOPY --chmod=$none --chown=$none a /\nADD --checksum=$none a /\n",
        "FROM scratch\nADD --checksum=sha256:0 http://a.b/c /\n",
    ] {
        let (file, diagnostics) = parse(text);
        let error = lint(&file, &diagnostics, &LintContext::new(&BTreeMap::new())).error;
        assert!(error.is_none(), "{text}: {error:?}");
    }
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

/// The names in folders of a context for the tests.
fn names(path: &str) -> Option<Vec<String>> {
    let names: &[&str] = match path {
        "" => &[".git", ".aws", "app", "src"],
        ".aws" => &["config", "credentials"],
        "app" => &[".env", ".env.example", "main.py"],
        "src" => &["id_rsa.pub", "main.c"],
        _ => return None,
    };
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn copied_folders_are_looked_into() {
    for (text, expected) in [
        ("COPY . /x\n", "GitFolderCopied 2, SecretFileCopied 2"),
        ("ADD ./ /x\n", "GitFolderCopied 2, SecretFileCopied 2"),
        ("ARG D=app\nCOPY /$D/ /x\n", "SecretFileCopied 3"),
        ("COPY src /x\n", ""),
        ("COPY app/.env /x\n", ""),
        ("COPY keys/id_ed25519 /x\n", "SecretFileCopied 2"),
        ("COPY --exclude=.git --exclude=.aws . /x\n", ""),
        ("COPY --exclude=**/.* . /x\n", ""),
        ("COPY --from=other . /x\n", ""),
        ("COPY .git /x/.git\n", ""),
        ("COPY . /x\nRUN cd /x && git describe > /version\n", "SecretFileCopied 2"),
        ("COPY . /x\nRUN make digit\n", "GitFolderCopied 2, SecretFileCopied 2"),
        ("# check=skip=GitFolderCopied,SecretFileCopied\nCOPY . /x\n", ""),
    ] {
        let text = format!("FROM a:1\n{text}");
        assert_eq!(found_with(&text, |context| context.names = Some(&names)), expected, "{text}");
        assert!(!found(&text).contains("Git"), "nothing is known of the files: {text}");
    }
}

#[test]
fn lines_of_one_command_need_no_errexit() {
    for (script, expected) in [
        ("one && \\\n two", ""),
        ("one &&\n two ||\nthree |\n four", ""),
        ("one\ntwo", "HeredocWithoutErrexit 2"),
        ("one && two\nthree", "HeredocWithoutErrexit 2"),
    ] {
        assert_eq!(found(&format!("FROM a:1\nRUN <<EOF\n{script}\nEOF\n")), expected, "{script}");
    }
}

#[test]
fn lines_of_the_ignore_file_come_last() {
    let pattern = |line, reason| IdlePattern { line, pattern: "a".to_owned(), reason };
    let idle = vec![pattern(1, IdleReason::NothingToExcept), pattern(3, IdleReason::Deeper("b/a".to_owned()))];
    let file = IgnoreFile { name: ".dockerignore".to_owned(), text: "!a\n\na\n".to_owned(), idle };
    let text = "FROM a:1\nMAINTAINER b\n";
    let expected = "MaintainerDeprecated 2, IgnorePatternMatchesNothing 1, IgnorePatternMatchesNothing 3";
    assert_eq!(found_with(text, |context| context.ignore_file = Some(&file)), expected);
    let skipped = format!("# check=skip=IgnorePatternMatchesNothing\n{text}");
    assert_eq!(found_with(&skipped, |context| context.ignore_file = Some(&file)), "MaintainerDeprecated 3");

    let (dockerfile, diagnostics) = parse(text);
    let context = LintContext { ignore_file: Some(&file), ..LintContext::new(&NO_ARGS) };
    let outcome = lint(&dockerfile, &diagnostics, &context);
    let report = JsonReport::new(&outcome, &dockerfile, "Dockerfile");
    let sources: Vec<(usize, &str)> =
        report.warnings.iter().map(|w| (w.location.source, w.rule_name.as_str())).collect();
    assert_eq!(sources[0], (0, "MaintainerDeprecated"));
    assert_eq!(sources[2], (1, "IgnorePatternMatchesNothing"));
    assert_eq!(report.sources[1].filename, ".dockerignore");
    let report = TextReport { outcome: &outcome, file: &dockerfile, filename: "Dockerfile" }.to_string();
    assert!(report.contains(".dockerignore:3\n") && report.contains("   3 | >>> a\n"), "{report}");
}

#[test]
fn layers_that_are_no_part_of_an_image_may_be_large() {
    let install = "RUN apt-get update && apt-get install -y curl\n";
    for (text, expected) in [
        (format!("FROM a:1 AS b\n{install}FROM a:1\nCOPY --from=b /x /x\n"), ""),
        (format!("FROM a:1 AS b\n{install}FROM b\n"), "AptGetCleanup 2"),
        (format!("FROM a:1 AS b\n{install}FROM a:1 AS c\n"), "AptGetCleanup 2"),
        (format!("FROM a:1\n{} && rm -rf /var/lib/{{apt,dpkg}}\n", install.trim_end()), ""),
        (format!("FROM a:1\n{} && rm -rf /var/lib/apt /tmp/*\n", install.trim_end()), ""),
        ("FROM a:1 AS b\nCOPY c /c\nRUN chown 1 /c\nFROM a:1\nCOPY --from=b /c /c\n".to_owned(), ""),
    ] {
        assert_eq!(found(&text), expected, "{text}");
    }
}
