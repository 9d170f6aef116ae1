/** The conversation that this browser shows. The server keeps it; only its id is kept here. */

const STORED = "chatstream-conversation";

export function createTalk(chat) {
  /** Return the conversation's id; the first prompt makes one. */
  async function conversation() {
    let id = localStorage.getItem(STORED);
    if (!id) {
      ({ id } = await chat.call("POST", "conversations/", {}));
      localStorage.setItem(STORED, id);
    }
    return id;
  }

  return {
    send: async (prompt) => chat.start({ prompt, conversation: await conversation() }),

    /** Answer again; `message` is the answer, which is kept beside the new one. */
    regenerate: async (message) => chat.start({ action: "regenerate", message }),

    /** Send a request whose answer was lost once more. Its key finds the run, if there is one. */
    repeat: async (request) => chat.start(request),

    follow: async (run) => chat.follow(run),

    /** Return the messages, oldest first. */
    async load() {
      const id = localStorage.getItem(STORED);
      if (!id) return [];
      try {
        return (await chat.call("GET", `conversations/${id}/`)).messages;
      } catch (problem) {
        if (![401, 403, 404].includes(problem.status)) throw problem;
        localStorage.removeItem(STORED); // of another session
        return [];
      }
    },

    forget: () => localStorage.removeItem(STORED),
  };
}
