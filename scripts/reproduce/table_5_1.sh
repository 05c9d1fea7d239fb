#!/usr/bin/env bash
# Table 5.1, task performance: F1, exact match, ROUGE-L and BLEU of every method on the same questions, with differences to dense attention.
source "$(dirname "${BASH_SOURCE[0]}")/tables.sh"
prepare
stage "training" train_main
stage "table 5.1" evaluate_main "$TABLES/main" f1,em,rouge_l,bleu
print_stages
