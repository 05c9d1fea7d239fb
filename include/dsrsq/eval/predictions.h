// Answered questions as JSON lines: what dsrsq-eval writes of its own rows and reads of other
// systems'. One object a line:
//   {"row"?, "id", "question"?, "prediction", "answers"?, ...}
// id: a string or an integer. answers: the references, a list of strings or one string; an empty
// list is an unanswerable question. row: of which row the line is, on every line or on none. Other
// keys are left alone. Written lines have besides em, f1, subspan_em, rouge_1, rouge_2, rouge_l,
// rouge_lsum and sentence_bleu, and of a model's own answers place, tokens_read, context_tokens,
// retained, evidence_recall, answer_recall, answer_held and answer_loss. Reading scores anew and
// takes no score from the file.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "dsrsq/eval/answers.h"

namespace dsrsq {

std::string question_lines(const AnsweredRow& row);

// One question of such a line, without row and scores, and back; the scores are those of
// score_answer. parse_question_json throws nlohmann's exceptions.
nlohmann::ordered_json question_json(const QuestionResult& question);
QuestionResult parse_question_json(const nlohmann::json& item);

// What is done about a question of the references that a file has no prediction for.
enum class MissingPrediction { kError, kEmpty, kSkip };

struct PredictionRequest {
  // "[ROW=]FILE", plain or gzip JSON lines. The row is called as the lines say where they do
  // ("ROW:<row>" where several rows stand in a file that was given a name), else ROW, else as the
  // file without its extension.
  std::vector<std::string> inputs;
  // Where answers come from that the lines lack: JSON lines of {"id", "answers", "question"?}, or a
  // data set (HDF5). Empty: every line has its own.
  std::string references;
  std::string split = "test";  // of the data set; also the case that results name
  MissingPrediction missing = MissingPrediction::kError;
  // What id, question, prediction and answers are called in the files, where otherwise.
  std::map<std::string, std::string> keys;
};

// Scored rows, in the order of the inputs. Throws DataError naming file:line for what is not such a
// line, an id that stands twice in a row, an id that the references lack, answers that differ from
// the references' or from another row's, missing predictions, and a file without predictions;
// ConfigError for two rows of one name and for an unknown name among `keys`.
std::vector<AnsweredRow> read_predictions(const PredictionRequest& request);

}  // namespace dsrsq
