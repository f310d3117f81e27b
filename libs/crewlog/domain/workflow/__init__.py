"""What a run is to do: the graph, its nodes, and the languages that they are written in."""
