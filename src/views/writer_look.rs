//! What the writer alone knows, asked of the writer itself: nothing can be changed through this.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::writer::{WriterInput, WriterView};

/// How long a reader waits for the writer, which may be saving on a slow disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// The writer as a reader sees it.
#[derive(Clone, Default)]
pub(super) struct WriterLook {
    /// `None`: no writer runs, which knows nothing then.
    inputs: Option<mpsc::Sender<WriterInput>>,
    last: Arc<Mutex<WriterView>>,
}

impl WriterLook {
    /// Of the writer that this queue leads to.
    pub(super) fn through(inputs: mpsc::Sender<WriterInput>) -> Self {
        Self { inputs: Some(inputs), last: Arc::default() }
    }

    /// What it knows now; where it does not answer in time, what it knew before, and that it does not answer.
    pub(super) async fn ask_writer(&self) -> WriterView {
        let Some(inputs) = &self.inputs else { return WriterView::default() };
        let (reply, answer) = oneshot::channel();
        let asked = async {
            inputs.send(WriterInput::Look { reply }).await.ok()?;
            answer.await.ok()
        };
        match timeout(PATIENCE, asked).await {
            Ok(Some(view)) => {
                self.last.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&view);
                view
            }
            answer => {
                let mut view = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // It has ended only where the process ends too.
                if answer.is_err() {
                    let seconds = PATIENCE.as_secs();
                    let why =
                        format!("the writer has not answered for {seconds} s; is `state` on a file system that hangs?");
                    view.not_saved = Some(why);
                }
                view
            }
        }
    }
}
