//! Shared links that are dialled before anybody needs them.

use std::rc::Rc;

use super::dial::{Identity, LinkKey};
use super::links::Links;
use super::pools::Lane;
use crate::domain::Resp;

impl Links {
    /// Dials what is missing to `links.shared` links of Lockgate's own identity (which is that of clients, where nobody has to
    /// authenticate), in the lanes that are used most; how many that are.
    pub fn warm_up(self: &Rc<Self>) -> usize {
        let pool = self.pool(LinkKey { identity: Identity::Service, db: self.default_db(), resp: Resp::V2 });
        let mut dialled = 0;
        for pool in [Lane::Data, Lane::Locks].map(|lane| pool.lane(lane)) {
            while self.away().is_none() && pool.links.borrow().len() < self.settings().shared {
                self.add_link(&pool);
                dialled += 1;
            }
        }
        dialled
    }
}
