//! Entry points for fuzzing, also run by ordinary tests over a committed corpus.
