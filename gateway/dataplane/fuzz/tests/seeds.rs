//! Every seed is lawful, or refused, everywhere; and what breaks is noticed.

#![allow(clippy::unwrap_used)]

use stagegate_fuzz::frames::FramePath;
use stagegate_fuzz::messages::TARGETS;
use stagegate_fuzz::mutate::{split, PREFACE};
use stagegate_fuzz::random::Random;
use stagegate_fuzz::{corpus, mutate};

#[test]
fn every_target_takes_every_message() {
    for seed in corpus::read(&corpus::folder().join("messages")).unwrap() {
        for (_, target) in TARGETS {
            target(&seed);
        }
    }
}

#[test]
fn every_target_takes_changed_messages() {
    let seeds = corpus::read(&corpus::folder().join("messages")).unwrap();
    let mut random = Random::new(11);
    for _ in 0..300 {
        let input = mutate::bytes(&mut random, &seeds);
        for (_, target) in TARGETS {
            target(&input);
        }
    }
}

#[test]
fn every_recorded_connection_ends_and_harms_nobody() {
    let mut path = FramePath::start().unwrap();
    let mut random = Random::new(1);
    let seeds = corpus::read(&corpus::folder().join("frames")).unwrap();
    for seed in seeds.iter().cycle().take(60) {
        path.throw(seed, &mut random).unwrap();
    }
    path.look_at_memory().unwrap();
}

#[test]
fn recorded_connections_are_whole_frames() {
    for seed in corpus::read(&corpus::folder().join("frames")).unwrap() {
        if seed.starts_with(PREFACE) {
            assert_eq!(seed[PREFACE.len()..], split(&seed).concat());
        }
    }
}
