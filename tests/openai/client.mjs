// The npm openai client against the gateway, as its users use it. Each step prints one line `ok NAME`; a failing one
// throws, and the process ends with 1. Run by openai_test.go, which sets OPENAI_BASE_URL, OPENAI_API_KEY and MODEL.
import assert from "node:assert/strict";
import OpenAI from "openai";

const model = process.env.MODEL;
const client = new OpenAI({ maxRetries: 0, timeout: 60_000 });
const ask = (content, more = {}) => ({ model, temperature: 0, max_tokens: 32, messages: [{ role: "user", content }], ...more });

const steps = {
  async models() {
    const list = await client.models.list();
    assert.ok(list.data.some((m) => m.id === model), JSON.stringify(list.data));
  },

  async streamEqualsWhole() {
    const whole = await client.chat.completions.create(ask("Tell me about water."));
    let text = "";
    let finish = null;
    for await (const chunk of await client.chat.completions.create(ask("Tell me about water.", { stream: true }))) {
      text += chunk.choices[0]?.delta?.content ?? "";
      finish = chunk.choices[0]?.finish_reason ?? finish;
      assert.equal(chunk.usage ?? null, null, "usage that was not asked for");
      assert.equal(chunk.choices[0]?.token_ids, undefined, "token ids that were not asked for");
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(finish, whole.choices[0].finish_reason);
    assert.ok(whole.usage.completion_tokens > 0);
  },

  async streamUsage() {
    let usage = null;
    const options = { stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await client.chat.completions.create(ask("Count for me.", options))) usage = chunk.usage ?? usage;
    assert.ok(usage && usage.prompt_tokens > 0 && usage.completion_tokens > 0, JSON.stringify(usage));
  },

  async tools() {
    const tool = { type: "function", function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } } };
    const runner = await client.chat.completions.create(
      ask("Weather in Bern?", { tools: [tool], tool_choice: { type: "function", function: { name: "weather" } }, stream: true }),
    );
    let name = "";
    let args = "";
    for await (const chunk of runner) {
      for (const call of chunk.choices[0]?.delta?.tool_calls ?? []) {
        name += call.function?.name ?? "";
        args += call.function?.arguments ?? "";
      }
    }
    assert.equal(name, "weather");
    JSON.parse(args);
  },

  async imagePart() {
    const image = { type: "image_url", image_url: { url: "data:image/png;base64,iVBORw0KGgo=" } };
    const answer = await client.chat.completions.create(ask([{ type: "text", text: "What is this?" }, image]));
    assert.ok(answer.choices[0].message.content.length > 0);
  },

  async embeddings() {
    const answer = await client.embeddings.create({ model, input: ["water", "light"] });
    assert.equal(answer.data.length, 2);
    assert.ok(answer.data[0].embedding.length > 1);
  },

  async abort() {
    const stream = await client.chat.completions.create(ask("Go on and on.", { stream: true, max_tokens: 4000, ignore_eos: true }));
    let n = 0;
    for await (const _ of stream) if (++n === 5) break; // leaving the loop aborts the request
    assert.equal(n, 5);
  },

  async errors() {
    await assert.rejects(client.chat.completions.create(ask("?", { model: "nobody" })), (e) => e instanceof OpenAI.NotFoundError && e.message.includes(model));
    await assert.rejects(client.chat.completions.create(ask("?", { max_tokens: "many" })), OpenAI.BadRequestError);
    const stranger = new OpenAI({ apiKey: "psk-wrong", maxRetries: 0 });
    await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
  },
};

for (const [name, step] of Object.entries(steps)) {
  await step();
  console.log("ok", name);
}
