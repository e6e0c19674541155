"""One module per tool that keeps something: tables, features, registry, profiles."""
