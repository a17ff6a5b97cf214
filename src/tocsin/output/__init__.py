"""Where rows are kept and messages go."""
