"""Whether a graph gives the same when it is run on a part of the samples of its batch at a time, proved op by op."""
