//! The house rules as a test: arrows between folders, file headers, banned words, sizes.
//!
//! Cycles between modules compile silently inside one crate; this is what keeps the folders a chain. The lists at the
//! bottom name what does not keep a rule yet: they may only get shorter.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// For each folder, the folders of `src/` that it may import besides itself and the leaf files.
const ARROWS: &[(&str, &[&str])] = &[
    ("catalog", &[]),
    ("state", &[]),
    ("engine", &["state"]),
    ("engine/coordinator", &["engine", "state", "catalog"]),
    ("planner", &["engine", "state", "catalog"]),
    ("frontend", &["planner", "engine", "state", "catalog"]),
];

/// Files of `src/` itself that stand at the right end of the chain.
const LEAVES: &[&str] = &[
    "clock",
    "config",
    "error",
    "failpoint",
    "ids",
    "logging",
    "metrics",
    "options",
    "postgres",
    "spawn",
    "testing",
    "types",
];

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

struct SourceFile {
    /// Relative to `src/`, with slashes.
    path: String,
    /// The file as it is.
    text: String,
    /// Without the unit tests at its end.
    production: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn source_files() -> Vec<SourceFile> {
    let source = root().join("src");
    let mut files = Vec::new();
    collect(&source, &mut |path| {
        let relative = path
            .strip_prefix(&source)
            .expect("below src")
            .to_string_lossy()
            .replace('\\', "/");
        let text = fs::read_to_string(path).expect("readable source");
        let production = match text.find("#[cfg(test)]\nmod ") {
            Some(start) => text[..start].to_owned(),
            None => text.clone(),
        };
        files.push(SourceFile {
            path: relative,
            text,
            production,
        });
    });
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn collect(folder: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(folder).expect("readable folder") {
        let path = entry.expect("readable entry").path();
        if path.is_dir() {
            collect(&path, visit);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            visit(&path);
        }
    }
}

fn test_only(path: &str) -> bool {
    path.ends_with("tests.rs")
        || path.ends_with("testing.rs")
        || path.contains("/tests/")
        || path.starts_with("testing")
        || path.starts_with("fuzzing")
        || path == "tidy.rs"
}

/// The rule of [`ARROWS`] that speaks of `path`: the longest folder that contains it.
fn arrows_of(path: &str) -> Option<(&'static str, &'static [&'static str])> {
    ARROWS
        .iter()
        .filter(|(folder, _)| path.starts_with(&format!("{folder}/")))
        .max_by_key(|(folder, _)| folder.len())
        .map(|(folder, allowed)| (*folder, *allowed))
}

/// Every `crate::x` in `text`, as the name x.
fn crate_imports(text: &str) -> BTreeSet<String> {
    let code: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join("\n");
    let mut found = BTreeSet::new();
    for (start, _) in code.match_indices("crate::") {
        let name: String = code[start + 7..]
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        found.insert(name);
    }
    found
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn folders_import_only_to_their_right() {
    let mut problems = Vec::new();
    for file in source_files().iter().filter(|file| !test_only(&file.path)) {
        let Some((folder, allowed)) = arrows_of(&file.path) else {
            continue;
        };
        let own = folder.split('/').next().expect("a folder");
        for name in crate_imports(&file.production) {
            let fine =
                name.is_empty() || name == own || allowed.contains(&name.as_str()) || LEAVES.contains(&name.as_str());
            if !fine {
                problems.push(format!(
                    "src/{} imports crate::{name}, which {folder} may not",
                    file.path
                ));
            }
        }
    }
    report(&problems);
}

#[test]
fn leaf_files_import_only_leaves() {
    let mut problems = Vec::new();
    for file in source_files() {
        let name = file.path.split(['/', '.']).next().unwrap_or_default().to_owned();
        if !LEAVES.contains(&name.as_str()) || name == "testing" {
            continue;
        }
        for import in crate_imports(&file.production) {
            if !LEAVES.contains(&import.as_str()) {
                problems.push(format!("src/{} is a leaf and imports crate::{import}", file.path));
            }
        }
    }
    report(&problems);
}

#[test]
fn siblings_of_the_front_do_not_call_each_other() {
    let mut problems = Vec::new();
    for file in source_files() {
        for (mine, other) in [
            ("frontend/pgwire/", "frontend::rest"),
            ("frontend/rest/", "frontend::pgwire"),
        ] {
            if file.path.starts_with(mine) && file.production.contains(other) {
                problems.push(format!("src/{} calls {other}", file.path));
            }
        }
    }
    report(&problems);
}

#[test]
fn every_file_says_what_it_is() {
    let problems: Vec<String> = source_files()
        .iter()
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| format!("src/{} does not open with //!", file.path))
        .collect();
    report(&problems);
}

#[test]
fn banned_in_production() {
    // Each with its reason, so that nobody wonders.
    let banned: BTreeMap<&str, &str> = BTreeMap::from([
        (".unwrap()", "use expect(\"why it cannot fail\") or an error"),
        ("todo!(", "finish it or answer 0A000"),
        ("unimplemented!(", "answer 0A000"),
        ("dbg!(", "left over"),
        ("println!(", "use tracing, or write to a handle in main"),
        ("SystemTime::now", "time comes from clock.rs"),
        ("Utc::now", "time comes from clock.rs"),
        ("std::env::var", "the environment is read in config.rs"),
        ("tokio::spawn(", "use spawn::named"),
    ]);
    let exempt = |path: &str, word: &str| match word {
        "SystemTime::now" => path == "clock.rs",
        // Not a setting: there is none in a release.
        "std::env::var" => path.starts_with("config") || path == "failpoint.rs",
        "tokio::spawn(" => path == "spawn.rs",
        "println!(" => path == "main.rs" || path.starts_with("shell"),
        _ => false,
    };
    let mut problems = Vec::new();
    for file in source_files().iter().filter(|file| !test_only(&file.path)) {
        for (number, line) in file.production.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (word, reason) in &banned {
                if code.contains(word) && !exempt(&file.path, word) {
                    problems.push(format!("src/{}:{}: {word} ({reason})", file.path, number + 1));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn files_and_functions_stay_small() {
    let mut problems = Vec::new();
    for file in source_files() {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX && !LONG_FILES.contains(&file.path.as_str()) {
            problems.push(format!(
                "src/{} has {lines} lines, more than {FILE_LINES_MAX}",
                file.path
            ));
        }
        if test_only(&file.path) {
            continue;
        }
        for (name, length) in function_lengths(&file.production) {
            let key = format!("{} {name}", file.path);
            if length > FUNCTION_LINES_MAX && !LONG_FUNCTIONS.contains(&key.as_str()) {
                problems.push(format!(
                    "src/{}: fn {name} has {length} lines, more than {FUNCTION_LINES_MAX}",
                    file.path
                ));
            }
        }
    }
    report(&problems);
}

#[test]
fn the_lists_of_exceptions_only_shrink() {
    let files = source_files();
    let mut problems = Vec::new();
    for path in LONG_FILES {
        let long = files
            .iter()
            .any(|file| file.path == *path && file.text.lines().count() > FILE_LINES_MAX);
        if !long {
            problems.push(format!("{path} keeps the rule now: take it off LONG_FILES"));
        }
    }
    for key in LONG_FUNCTIONS {
        let long = files.iter().any(|file| {
            function_lengths(&file.production)
                .iter()
                .any(|(name, length)| format!("{} {name}", file.path) == *key && *length > FUNCTION_LINES_MAX)
        });
        if !long {
            problems.push(format!("{key} keeps the rule now: take it off LONG_FUNCTIONS"));
        }
    }
    report(&problems);
}

#[test]
fn migrations_are_numbered_without_gaps_and_explained() {
    let mut names: Vec<String> = fs::read_dir(root().join("migrations"))
        .expect("migrations folder")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut problems = Vec::new();
    for (index, name) in names.iter().enumerate() {
        if !name.starts_with(&format!("{:04}_", index + 1)) {
            problems.push(format!("migrations/{name} is not number {:04}", index + 1));
        }
        let text = fs::read_to_string(root().join("migrations").join(name)).expect("readable migration");
        if !text.starts_with("--") {
            problems.push(format!("migrations/{name} does not begin with a comment that says why"));
        }
    }
    report(&problems);
}

#[test]
fn every_connector_has_a_test_and_a_page() {
    let names: Vec<&str> = crate::engine::connectors::REGISTRY
        .iter()
        .map(|connector| connector.name())
        .collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(names, sorted, "REGISTRY is in alphabetical order");
    let mut problems = Vec::new();
    for name in names {
        if !root().join(format!("sqllogictest/connectors/{name}.slt")).exists() {
            problems.push(format!("sqllogictest/connectors/{name}.slt is missing"));
        }
        if !root().join(format!("docs/connectors/{name}.md")).exists() {
            problems.push(format!("docs/connectors/{name}.md is missing"));
        }
    }
    report(&problems);
}

/// Numbers of the fault matrix in the names of tests: `f_20` in `fn f_20_x(`, in names of scenarios and of slt files.
fn faults_tested() -> BTreeSet<(&'static str, String)> {
    let numbers_in = |name: &str| {
        let name = format!("_{name}");
        let found = name
            .match_indices("_f_")
            .map(|(start, _)| name[start + 3..].chars().take(2).collect());
        let numbers = found.filter(|number: &String| number.len() == 2 && number.chars().all(|c| c.is_ascii_digit()));
        numbers.collect::<Vec<String>>()
    };
    let mut tested = BTreeSet::new();
    for file in source_files() {
        for (start, _) in file.text.match_indices("fn f_") {
            let name = file.text[start + 3..].split('(').next().unwrap_or_default();
            tested.extend(numbers_in(name).into_iter().map(|number| ("unit", number)));
        }
    }
    let scenarios = ["sqllogictest/scenarios.rs", "sqllogictest/deliveries/mod.rs"]
        .map(|path| fs::read_to_string(root().join(path)).expect(path))
        .concat();
    for (start, _) in scenarios.match_indices("\"scenario/") {
        let name = scenarios[start + 1..].split('"').next().unwrap_or_default();
        tested.extend(numbers_in(name).into_iter().map(|number| ("scenario", number)));
    }
    let files = glob::glob(&root().join("sqllogictest/**/*.slt").to_string_lossy()).expect("a pattern");
    for path in files.flatten() {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        tested.extend(numbers_in(&name).into_iter().map(|number| ("slt", number)));
    }
    tested
}

#[test]
fn every_row_of_the_fault_matrix_has_its_tests() {
    let page = fs::read_to_string(root().join("docs/faults.md")).expect("docs/faults.md");
    let mut named = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| F-")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let number = cells[0].trim_start_matches("F-").to_owned();
        for kind in cells.last().expect("a cell").split(", ") {
            let kind = ["unit", "scenario", "slt"].into_iter().find(|known| *known == kind);
            named.insert((kind.expect("unit, scenario or slt"), number.clone()));
        }
    }
    let tested = faults_tested();
    let missing = named
        .difference(&tested)
        .map(|(kind, number)| format!("F-{number} has no {kind} test"));
    let unnamed = tested.difference(&named);
    let unnamed = unnamed.map(|(kind, number)| format!("docs/faults.md does not name the {kind} test of F-{number}"));
    let problems: Vec<String> = missing.chain(unnamed).collect();
    assert!(!named.is_empty());
    report(&problems);
}

/// The path of ARCHITECTURE.md from SQL text to running tasks cannot rot: every function that it names exists.
#[test]
fn every_stop_exists() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let files = source_files();
    let mut stops = 0;
    let mut problems = Vec::new();
    for line in page
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains("::"))
    {
        for stop in line.split('`').skip(1).step_by(2).filter(|stop| stop.contains("::")) {
            let path = stop.trim_end_matches("()");
            let (module, item) = path.rsplit_once("::").expect("has ::");
            let module = module.replace("::", "/");
            stops += 1;
            let exists = files.iter().any(|file| {
                (file.path.starts_with(&format!("{module}.rs")) || file.path.starts_with(&format!("{module}/")))
                    && [
                        format!("fn {item}("),
                        format!("fn {item}<"),
                        format!("struct {item}"),
                        format!("static {item}"),
                    ]
                    .iter()
                    .any(|definition| file.text.contains(definition.as_str()))
            });
            if !exists {
                problems.push(format!("ARCHITECTURE.md names {stop}, which does not exist"));
            }
        }
    }
    assert!(stops >= 10, "the path has at least ten stops, found {stops}");
    report(&problems);
}

/// Name and number of lines of every function that is not inside a string. Relies on rustfmt: a function ends at the
/// first `}` on its own at the indentation of its `fn`.
fn function_lengths(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let Some(name) = function_name(trimmed) else { continue };
        let indentation = line.len() - trimmed.len();
        let closing = format!("{}}}", " ".repeat(indentation));
        let declaration_only = lines[start..]
            .iter()
            .take(12)
            .any(|l| l.trim_end().ends_with(';') && !l.contains('{'))
            && !lines[start..]
                .iter()
                .take(12)
                .take_while(|l| !l.trim_end().ends_with(';'))
                .any(|l| l.contains('{'));
        if declaration_only {
            continue;
        }
        if let Some(length) = lines[start..].iter().position(|l| *l == closing) {
            found.push((name, length + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let mut rest = line;
    for prefix in ["pub(crate) ", "pub(super) ", "pub ", "const ", "async ", "unsafe "] {
        rest = rest.strip_prefix(prefix).unwrap_or(rest);
    }
    let rest = rest.strip_prefix("fn ")?;
    Some(
        rest.chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect(),
    )
}

/// Files over the limit. May only shrink.
const LONG_FILES: &[&str] = &[];

/// `path function` over the limit. May only shrink.
const LONG_FUNCTIONS: &[&str] = &["frontend/pgwire/parameter.rs from_binary"];
