"""Times and sizes of the kit beside what people use today: `benchmark` measures all of them."""
