// What vllm-project/recipes' own builder prints for each question of ask.json.
import fs from "node:fs";
import { resolveCommand } from "./synthesis.mjs";

const [entries, strategies, taxonomy, questions] = JSON.parse(fs.readFileSync("ask.json"));
const answers = questions.map(([entry, variant, strategy, hardware, features]) => {
  const made = resolveCommand(
    entries[entry], variant, strategy, hardware, features, strategies, taxonomy,
  );
  return { argv: made.argv, env: made.env };
});
process.stdout.write(JSON.stringify(answers));
