//! Whether the upstream lets this client do what a `LOCK.*` command that is not about a key does.

use super::{Gone, Session};
use crate::commands::lock_rights::Needed;
use crate::protocol::args::encode_command;
use crate::protocol::frame;
use crate::upstream::call::CallError;

impl Session {
    /// Asks the upstream for what the command `name` needs; `false` where it may not be carried out, and the client has been told.
    pub(super) async fn is_entitled(&mut self, name: &[u8], needed: Needed) -> Result<bool, Gone> {
        let mut question = Vec::new();
        encode_command(needed.question, &mut question);
        let judged = match needed.has_effect {
            true => self.judge_queued(&question).await?,
            false => self.ask(question).await?,
        };
        let refusal = match judged {
            Ok(reply) => needed.refusal(name, &reply),
            Err(error) => {
                self.has_no_answer(&error).await?;
                return Ok(false);
            }
        };
        let Some(refusal) = refusal else { return Ok(true) };
        let mut out = Vec::new();
        frame::error(refusal, &mut out);
        self.answer(&out);
        Ok(false)
    }

    /// What the upstream says when it queues a command that is then discarded: rights are judged, and nothing runs. Who may not open a
    /// transaction is refused.
    async fn judge_queued(&mut self, question: &[u8]) -> Result<Result<Vec<u8>, CallError>, Gone> {
        let links = self.worker.links();
        let key = self.key.clone();
        let mut link = match self.guard(links.take_own_now(&key)).await? {
            Ok(link) => link,
            Err(error) => return Ok(Err(CallError::Unavailable(error.to_string()))),
        };
        let judged = self.guard(async {
            let opened = link.ask(b"*1\r\n$5\r\nMULTI\r\n").await?;
            if opened.first() != Some(&b'+') {
                return Ok((opened, false));
            }
            let judged = link.ask(question).await?;
            let discarded = link.ask(b"*1\r\n$7\r\nDISCARD\r\n").await?;
            Ok((judged, discarded.first() == Some(&b'+')))
        });
        Ok(match judged.await? {
            Ok((judged, is_as_new)) => {
                if is_as_new {
                    links.give_back(link);
                }
                Ok(judged)
            }
            Err(error) => {
                let error: std::io::Error = error;
                Err(CallError::Unavailable(error.to_string()))
            }
        })
    }
}
