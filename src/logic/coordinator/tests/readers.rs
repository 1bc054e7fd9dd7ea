//! Readers: of what workers read themselves, no more splits are in flight than are allowed.

use super::*;

/// A coordinator of two workers with two threads each, that lets `most` splits be in flight of the files from
/// `first_file` on; the input has a split of each of `files`.
fn reading(most: usize, first_file: usize, files: &[usize]) -> Game {
    let mut game = Game::with(Config {
        worker_threads: vec![2, 2],
        spares: 0,
        input_bytes: None,
        split_bytes: Some(100),
        worker_timeout: Some(Duration::from_secs(10)),
        backups: true,
        readers: Some(Readers { most, first_file }),
        skip_bad_input: false,
    });
    game.begin();
    for (id, &file) in files.iter().enumerate() {
        let split = Split { id: SplitId(id as u64), file, offset: 0, length: 100 };
        game.tell(Event::SplitCut { split });
    }
    game.tell(Event::InputEnded);
    game
}

fn sent(game: &mut Game) -> Vec<u64> {
    game.executions().into_iter().map(|(_, split, _)| split.0).collect()
}

fn holder(game: &Game, split: u64) -> u32 {
    let holds = |progress: &WorkerProgress| progress.holds(SplitId(split));
    game.coordinator.workers().iter().position(holds).expect("it is in flight") as u32
}

#[test]
fn no_more_are_in_flight_than_are_allowed() {
    let mut game = reading(3, 0, &[0; 8]);
    assert_eq!(sent(&mut game), [0, 1, 2]);
    game.wait(2);
    assert_eq!(sent(&mut game), [0; 0]);
    for next in 3..8 {
        let worker = holder(&game, next - 3);
        game.mapped(worker, next - 3);
        assert_eq!(sent(&mut game), [next]);
    }
    game.reach(Phase::Merge, 8);
    game.finish();
}

#[test]
fn what_the_client_reads_is_not_held_up() {
    let mut game = reading(1, 1, &[1, 0, 1, 0, 2, 0, 0]);
    assert_eq!(sent(&mut game), [0, 1, 3, 5, 6]);
    let worker = holder(&game, 0);
    game.mapped(worker, 0);
    assert_eq!(sent(&mut game), [2]);
    let worker = holder(&game, 1);
    game.mapped(worker, 1);
    assert_eq!(sent(&mut game), [0; 0]);
}

#[test]
fn backups_count_too() {
    for (most, backups) in [(1, vec![]), (2, vec![1])] {
        let mut game = reading(most, 0, &[0, 0]);
        let mut all = sent(&mut game);
        game.now += Duration::from_millis(10);
        let worker = holder(&game, 0);
        game.mapped(worker, 0);
        all.extend(sent(&mut game));
        assert_eq!(all, [0, 1]);
        game.wait(3);
        assert_eq!(sent(&mut game), backups, "{most} at a time");
    }
}

#[test]
fn those_of_a_lost_worker_do_not_count() {
    let mut game = reading(2, 0, &[0; 4]);
    assert_eq!(sent(&mut game), [0, 1]);
    let lost = holder(&game, 0);
    let others = (0..2).filter(|&split| holder(&game, split) != lost).count();
    game.lose(lost);
    assert_eq!(sent(&mut game).len(), 2 - others);
    game.reach(Phase::Merge, 4);
    game.finish();
    assert_eq!(game.coordinator.totals().pairs, 40);
}
