use crate::account::ledger::record::SaleRecord;

use super::*;

fn sale(number: u8) -> Line {
    Line::Sale(SaleRecord {
        payment_hash: [number; 32],
        amount_msat: 1_000,
        ..SaleRecord::default()
    })
}

/// Returns the lines of the journal and the number of damaged lines.
fn lines(journal: &Journal) -> (Vec<Line>, u64) {
    let mut lines = Vec::new();
    let damaged = journal
        .read::<io::Error>(|line| {
            lines.push(line);
            Ok(())
        })
        .unwrap();
    (lines, damaged)
}

#[test]
fn lines_are_read_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path()).unwrap();
    assert_eq!(lines(&journal), (vec![], 0));
    journal.append([&sale(1), &sale(2)]).unwrap();
    journal.sync().unwrap();
    drop(journal);
    let journal = Journal::open(folder.path()).unwrap();
    assert_eq!(lines(&journal), (vec![sale(1), sale(2)], 0));
}

#[test]
fn a_torn_end_is_cut_wherever_it_is_torn_and_the_next_line_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.log");
    let mut journal = Journal::open(folder.path()).unwrap();
    journal.append([&sale(1)]).unwrap();
    let one = usize::try_from(journal.bytes).unwrap();
    journal.append([&sale(2)]).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for torn_at in one..whole.len() {
        std::fs::write(&path, &whole[..torn_at]).unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        assert_eq!(lines(&journal), (vec![sale(1)], 0));
        journal.append([&sale(3)]).unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(lines(&journal), (vec![sale(1), sale(3)], 0));
    }
}

#[test]
fn a_damaged_line_is_counted_and_the_others_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.log");
    let mut journal = Journal::open(folder.path()).unwrap();
    journal.append([&sale(1), &sale(2), &sale(3)]).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    assert_eq!(lines(&journal), (vec![sale(1), sale(3)], 1));
}

#[test]
fn damage_longer_than_any_line_does_not_hide_what_follows() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path()).unwrap();
    journal.append([&sale(1)]).unwrap();
    journal.file.write_all(&vec![0; 200_000]).unwrap();
    journal.file.write_all(b"\n").unwrap();
    journal.append([&sale(2)]).unwrap();
    let (read, damaged) = lines(&Journal::open(folder.path()).unwrap());
    assert_eq!(read, [sale(1), sale(2)]);
    assert!(damaged > 0);
}

#[test]
fn a_fold_keeps_everything_and_empties_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path()).unwrap();
    journal.append([&sale(1), &sale(1)]).unwrap();
    let dump = journal.dump([Ok::<_, io::Error>(sale(1))]).unwrap();
    assert_eq!(dump.sales, 1);
    journal.fold(dump).unwrap();
    journal.append([&sale(2)]).unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    let mut dumped = Vec::new();
    let read = journal.read_dump::<io::Error>(|line| {
        dumped.push(line);
        Ok(())
    });
    let id = Line::Dump(journal.dump_id());
    assert_eq!((read.unwrap(), dumped), (0, vec![id, sale(1)]));
    assert_eq!(lines(&journal).0, [sale(2)]);
    assert!(!journal.is_long());
}

/// Returns the lines of the dump without its number, and the number of damaged lines.
fn dumped(journal: &Journal) -> (Vec<Line>, u64) {
    let mut dumped = Vec::new();
    let damaged = journal.read_dump::<io::Error>(|line| {
        dumped.push(line);
        Ok(())
    });
    let damaged = damaged.unwrap();
    dumped.retain(|line| !matches!(line, Line::Dump(_)));
    (dumped, damaged)
}

#[test]
fn a_dump_takes_a_third_of_the_room_and_damage_costs_one_pack() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path()).unwrap();
    let sales: Vec<Line> = (0..=255).map(sale).collect();
    let mut plain = Vec::new();
    for line in &sales {
        write_line(&mut plain, line).unwrap();
    }
    let dump = journal.dump(sales.iter().cloned().map(Ok::<_, io::Error>));
    journal.fold(dump.unwrap()).unwrap();
    assert_eq!(dumped(&journal), (sales.clone(), 0));
    let path = dump_path(folder.path());
    let packed = std::fs::read(&path).unwrap();
    assert!(packed.len() < plain.len() / 3, "{} bytes", packed.len());

    let mut damaged = packed.clone();
    let last = damaged.len() - 100;
    damaged[last] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let (left, count) = dumped(&journal);
    assert_eq!(count, 1);
    assert!(!left.is_empty() && left.len() < sales.len());
    assert_eq!(left, sales[..left.len()]);
}

#[test]
fn a_dump_that_an_older_program_wrote_line_by_line_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut plain = Vec::new();
    for line in [Line::Dump(7), sale(1), sale(2)] {
        write_line(&mut plain, &line).unwrap();
    }
    std::fs::write(dump_path(folder.path()), plain).unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    assert_eq!(journal.dump_id(), 7);
    assert_eq!(dumped(&journal), (vec![sale(1), sale(2)], 0));
}

#[test]
fn a_dump_that_fails_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path()).unwrap();
    journal.append([&sale(1)]).unwrap();
    let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
    assert!(journal.dump([Ok(sale(1)), full()]).is_err());
    assert!(!folder.path().join("dump.new").exists());
    assert_eq!(lines(&journal).0, [sale(1)]);
    assert!(!journal.is_long());
}
