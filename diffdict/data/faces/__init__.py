"""How toy faces are drawn: what with, which parts, and under which light."""
