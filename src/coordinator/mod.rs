//! stub
use std::sync::Arc;
use crate::domain::*;
use crate::commands::lock_args::LockCommand;
#[derive(Default,Clone)] pub struct BoundLocks;
#[derive(Default,Clone)] pub struct LockSettings { pub default_ttl_ms:u64, pub max_ttl_ms:u64, pub max_wait_ms:u64,pub max_queue:u64,pub promote_after_ms:u64,pub node:String, pub x:u8 }
pub struct Coordinator;
pub struct Asker<C> { pub db: Db, pub session: u64, pub caller: C, pub service: C, pub bound: BoundLocks }
pub enum LockReply { Nil }
impl LockReply { pub fn encode(&self, resp: Resp, out: &mut Vec<u8>) { crate::protocol::frame::null(resp,out) } }
impl Coordinator {
    pub fn new(_: LockSettings)->Arc<Self>{Arc::new(Coordinator)}
    pub async fn run<C: crate::upstream::call::Caller>(self:&Arc<Self>, _:&Asker<C>, _:LockCommand)->LockReply{LockReply::Nil}
    pub fn shut_down(&self){}
}
