"""Tables, charts and notebook cells; knows no model and no dataset."""
