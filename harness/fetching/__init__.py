"""How datasets, weights and assets come onto a machine; a run itself downloads nothing."""
