"""The LangChain and LangGraph door: chat model, tools, graph server."""
