"""Problems and a reasoner become a run folder; the engines, the store, and what is done with a run."""
