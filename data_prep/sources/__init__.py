"""One module a source format; each holds `rows(inputs, options)`, see data_prep.convert."""
