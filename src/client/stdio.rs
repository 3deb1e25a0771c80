//! Standard input and output as asynchronous pipes, whatever they are.
