//! `fuzz [--seconds 20] [--seed N] [--target NAME|all] [--found FOLDER] [FILE...]`
//!
//! Without files: every target takes changed copies of its seeds until the time is over, half of it for the
//! running data plane. An input that breaks something is written to FOLDER, told, and the exit code is 1.
//! With files: each is given to the target once, to see a finding again.

#![forbid(unsafe_code)]

use std::fs;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use stagegate_fuzz::frames::{last_panic, watch_panics, FramePath};
use stagegate_fuzz::messages::{Target, TARGETS};
use stagegate_fuzz::random::Random;
use stagegate_fuzz::{corpus, mutate};

const FRAMES: &str = "frames";
/// Inputs between two looks at the clock.
const BATCH: usize = 200;

struct Options {
    time: Duration,
    seed: u64,
    target: String,
    found: PathBuf,
    files: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("fuzz: {text}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        time: Duration::from_secs(20),
        seed: 1,
        target: "all".to_owned(),
        found: PathBuf::from("fuzz-found"),
        files: Vec::new(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{text:?} is no number"));
        match word.as_str() {
            "--seconds" => options.time = Duration::from_secs(number(value()?)?),
            "--seed" => options.seed = number(value()?)?,
            "--target" => options.target = value()?,
            "--found" => options.found = PathBuf::from(value()?),
            _ if word.starts_with("--") => return Err(format!("unknown option {word}")),
            _ => options.files.push(PathBuf::from(word)),
        }
    }
    let known = |name: &str| name == FRAMES || TARGETS.iter().any(|(target, _)| *target == name);
    if options.target != "all" && !known(&options.target) {
        let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        return Err(format!("targets: all, {FRAMES}, {}", names.join(", ")));
    }
    Ok(options)
}

fn run(options: &Options) -> Result<(), String> {
    watch_panics();
    let wanted = |name: &str| options.target == "all" || options.target == name;
    let targets: Vec<_> = TARGETS.iter().filter(|(name, _)| wanted(name)).collect();
    let halves = u32::from(wanted(FRAMES)) + u32::from(!targets.is_empty());
    let time = options.time / halves.max(1);
    if let Some(count) = u32::try_from(targets.len()).ok().filter(|count| *count > 0) {
        let seeds = seeds(options, "messages")?;
        for (name, target) in targets {
            message_target(options, name, *target, &seeds, time / count)?;
        }
    }
    if wanted(FRAMES) {
        frame_target(options, &seeds(options, FRAMES)?, time)?;
    }
    Ok(())
}

fn seeds(options: &Options, kind: &str) -> Result<Vec<Vec<u8>>, String> {
    let read = if options.files.is_empty() {
        corpus::read(&corpus::folder().join(kind))
    } else {
        options.files.iter().map(fs::read).collect()
    };
    read.map_err(|error| error.to_string())
}

fn message_target(
    options: &Options,
    name: &str,
    target: Target,
    seeds: &[Vec<u8>],
    time: Duration,
) -> Result<(), String> {
    let try_one = |input: &[u8]| {
        catch_unwind(AssertUnwindSafe(|| target(input)))
            .map_err(|_| found(&options.found, name, input, &last_panic()))
    };
    for seed in seeds {
        try_one(seed)?;
    }
    let (mut random, mut count) = (Random::new(options.seed), seeds.len());
    let end = Instant::now() + time;
    while options.files.is_empty() && Instant::now() < end {
        for _ in 0..BATCH {
            try_one(&mutate::bytes(&mut random, seeds))?;
        }
        count += BATCH;
    }
    println!("{name}: {count} inputs");
    Ok(())
}

fn frame_target(options: &Options, seeds: &[Vec<u8>], time: Duration) -> Result<(), String> {
    let mut path = FramePath::start()?;
    let mut random = Random::new(options.seed);
    for seed in seeds {
        path.throw(seed, &mut random)
            .map_err(|text| found(&options.found, FRAMES, seed, &text))?;
    }
    let (mut count, end) = (seeds.len(), Instant::now() + time);
    while options.files.is_empty() && Instant::now() < end {
        for _ in 0..BATCH {
            let input = mutate::connection(&mut random, seeds);
            path.throw(&input, &mut random)
                .map_err(|text| found(&options.found, FRAMES, &input, &text))?;
            count += 1;
            if Instant::now() >= end {
                break;
            }
        }
        path.look_at_memory()?;
    }
    println!("{FRAMES}: {count} connections");
    Ok(())
}

/// Keep an input that broke something; gives what to tell.
fn found(folder: &Path, target: &str, input: &[u8], text: &str) -> String {
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = folder.join(format!("{target}-{hash:016x}"));
    let kept = fs::create_dir_all(folder).and_then(|()| fs::write(&path, input));
    let at = match kept {
        Ok(()) => format!("again: --target {target} {}", path.display()),
        Err(error) => format!("it could not be kept: {error}"),
    };
    format!("{target}: {} bytes broke it: {text}\n{at}", input.len())
}
