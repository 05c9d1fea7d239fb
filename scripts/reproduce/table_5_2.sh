#!/usr/bin/env bash
# Table 5.2, efficiency: peak memory, throughput, latency and the share of the context that is read, of the rows of table 5.1; beside them
# the bytes held and the tokens that went through the model, those read to choose included.
source "$(dirname "${BASH_SOURCE[0]}")/tables.sh"
prepare
stage "training" train_main
stage "table 5.2" evaluate_main "$TABLES/main" peak_memory,throughput,latency_p50,token_efficiency,bytes_held,tokens_spent
print_stages
