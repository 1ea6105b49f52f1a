//! Senders by their key, in parts that copies share: a copy is taken in microseconds, however many senders there are, and what is
//! recorded after it copies one part. So nothing that reports a handshake waits for a report.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher as _;
use std::sync::Arc;

use super::sender::{SenderKey, SenderUse};

/// How many parts, one for each value of a byte: of 20,000 senders each has about 80.
const PARTS: usize = 256;

type TablePart = HashMap<Arc<SenderKey>, Arc<SenderUse>>;

/// Senders, each shared with the copies that reports are built from.
#[derive(Clone, Debug)]
pub(super) struct SenderTable {
    parts: Vec<Arc<TablePart>>,
    hashes: RandomState,
    count: usize,
}

impl Default for SenderTable {
    fn default() -> Self {
        Self { parts: vec![Arc::default(); PARTS], hashes: RandomState::new(), count: 0 }
    }
}

impl SenderTable {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<SenderKey>, &Arc<SenderUse>)> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    /// All of them, to be changed: copies keep every part as it was.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<SenderKey>, &mut Arc<SenderUse>)> {
        self.parts.iter_mut().flat_map(|part| Arc::make_mut(part).iter_mut())
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Arc<SenderKey>> {
        self.iter().map(|(key, _)| key)
    }

    pub(super) fn get(&self, key: &SenderKey) -> Option<&Arc<SenderUse>> {
        self.part(key).get(key)
    }

    pub(super) fn get_key_value(&self, key: &SenderKey) -> Option<(&Arc<SenderKey>, &Arc<SenderUse>)> {
        self.part(key).get_key_value(key)
    }

    /// A sender's entry, begun where there is none.
    pub(super) fn find_or_begin(&mut self, key: Arc<SenderKey>) -> &mut Arc<SenderUse> {
        let place = self.place(&key);
        let part = Arc::make_mut(&mut self.parts[place]);
        match part.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                self.count += 1;
                free.insert(Arc::default())
            }
        }
    }

    pub(super) fn remove(&mut self, key: &SenderKey) -> Option<Arc<SenderUse>> {
        let place = self.place(key);
        let removed = Arc::make_mut(&mut self.parts[place]).remove(key);
        self.count -= usize::from(removed.is_some());
        removed
    }

    fn part(&self, key: &SenderKey) -> &TablePart {
        &self.parts[self.place(key)]
    }

    fn place(&self, key: &SenderKey) -> usize {
        usize::from(self.hashes.hash_one(key).to_le_bytes()[0])
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::pki::Fingerprint;

    fn key(number: u32) -> Arc<SenderKey> {
        let certificate = Some(Fingerprint::of(&number.to_be_bytes()));
        Arc::new(SenderKey::new((&"api".into(), &"in".into()), &number.to_string(), certificate, None))
    }

    fn visit(table: &mut SenderTable, number: u32) {
        let sender = Arc::make_mut(table.find_or_begin(key(number)));
        sender.own_pair(Fingerprint::from_bytes([1; 32]), Timestamp::UNIX_EPOCH).handshakes += 1;
    }

    #[test]
    fn a_copy_stays_as_it_is_and_a_record_copies_one_part_only() {
        let mut table = SenderTable::default();
        (0..5_000).for_each(|number| visit(&mut table, number));
        let copy = table.clone();
        visit(&mut table, 7);
        let handshakes = |table: &SenderTable| table.get(&key(7)).unwrap().own[0].handshakes;
        assert_eq!((handshakes(&copy), handshakes(&table)), (1, 2));
        let shared = table.parts.iter().zip(&copy.parts).filter(|(one, other)| Arc::ptr_eq(one, other));
        assert_eq!(shared.count(), PARTS - 1);
        assert!(table.parts.iter().all(|part| part.len() < 60), "the parts are about as large as each other");
    }

    #[test]
    fn it_counts_what_it_holds() {
        let mut table = SenderTable::default();
        for number in [1, 2, 3, 2, 1] {
            visit(&mut table, number);
        }
        let copy = table.clone();
        assert!(table.remove(&key(2)).is_some() && table.remove(&key(9)).is_none());
        assert_eq!((table.len(), table.keys().count(), table.get_key_value(&key(1)).is_some()), (2, 2, true));
        assert!(table.remove(&key(1)).is_some());
        table.iter_mut().for_each(|(_, sender)| Arc::make_mut(sender).partner = Some("acme".into()));
        assert_eq!((table.len(), table.iter().count()), (1, 1));
        assert!(copy.len() == 3 && copy.iter().count() == 3 && copy.iter().all(|(_, sender)| sender.partner.is_none()));
    }
}
