//! stub
pub struct LockCommand;
impl LockCommand { pub fn parse(_:&[&[u8]])->Result<Self,String>{Ok(LockCommand)} pub fn may_wait(&self)->bool{false} }
