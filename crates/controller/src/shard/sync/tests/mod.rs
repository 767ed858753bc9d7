//! Two and three tables that exchange what they have.
