"""Facts: appended, relayed to the streams, folded into projections."""
