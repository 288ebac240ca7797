//! An app: its instances, and what the rest of the relay asks of them.
//!
//! Placeholder signatures while the pieces are written side by side; see the plan.
