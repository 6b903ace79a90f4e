//! Things with a number each, the numbers of those that are gone given out anew.

/// A list whose entries keep their places.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Adds one; its number.
    pub fn add(&mut self, entry: T) -> usize {
        match self.free.pop() {
            Some(place) => {
                self.entries[place] = Some(entry);
                place
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() - 1
            }
        }
    }

    /// Takes one out. What many have left behind is given back to the machine once none is there.
    pub fn take(&mut self, place: usize) -> Option<T> {
        let entry = self.entries.get_mut(place)?.take()?;
        self.free.push(place);
        if self.free.len() == self.entries.len() {
            *self = Slab::default();
        }
        Some(entry)
    }

    /// The one of that number.
    pub fn get(&self, place: usize) -> &T {
        self.entries[place].as_ref().expect("a number is used only while its entry is there")
    }

    /// The one of that number.
    pub fn get_mut(&mut self, place: usize) -> &mut T {
        self.entries[place].as_mut().expect("a number is used only while its entry is there")
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.entries.iter().enumerate().filter_map(|(place, entry)| Some((place, entry.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_are_given_out_anew() {
        let mut slab = Slab::default();
        let (a, b) = (slab.add('a'), slab.add('b'));
        assert_eq!((slab.take(a), slab.take(a)), (Some('a'), None));
        assert_eq!((slab.add('c'), *slab.get(b)), (a, 'b'));
        *slab.get_mut(b) = 'd';
        assert_eq!(slab.iter().map(|(_, entry)| *entry).collect::<String>(), "cd");
        slab.take(a);
        slab.take(b);
        assert!(slab.entries.is_empty() && slab.free.is_empty());
    }
}
