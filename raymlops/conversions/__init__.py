"""Values as they were read -> the types that columns are to have: in training, prediction and endpoints alike."""
