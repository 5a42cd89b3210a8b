# ruff: noqa: RUF001
"""The 21 tasks of LongBench: what is asked, how long the answer may be, and how it is scored.

Source: THUDM/LongBench 2e00731, LongBench/{config/dataset2prompt.json, config/dataset2maxlen.json, pred.py, eval.py};
the wording is the benchmark, slips included.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task.

    metric: a name in `tasks.longbench.metrics.METRICS`. in_e: LongBench-E has it too. chat: a chat model reads it
    inside its chat template. first_line: only the first line of the answer is scored, line breaks before it left out.
    """

    template: str
    max_new_tokens: int
    metric: str
    in_e: bool = False
    chat: bool = True
    first_line: bool = False


# LongBench-E's bins, by the row's `length` (words; characters in Chinese): the first whose bound is above it.
LENGTH_BINS: dict[str, float] = {"0-4k": 4000, "4-8k": 8000, "8k+": float("inf")}

_FROM_PASSAGES = (
    "Answer the question based on the given passages. Only give me the answer and do not output any other "
    "words.\n\nThe following are given passages.\n{context}\n\nAnswer the question based on the given "
    "passages. Only give me the answer and do not output any other words.\n\nQuestion: {input}\nAnswer:"
)

TASKS: dict[str, Task] = {
    "narrativeqa": Task(
        template=(
            "You are given a story, which can be either a novel or a movie script, and a question. Answer the "
            "question asconcisely as you can, using a single phrase if possible. Do not provide any "
            "explanation.\n\nStory: {context}\n\nNow, answer the question based on the story asconcisely as "
            "you can, using a single phrase if possible. Do not provide any explanation.\n\nQuestion: "
            "{input}\n\nAnswer:"
        ),
        max_new_tokens=128,
        metric="qa_f1",
    ),
    "qasper": Task(
        template=(
            "You are given a scientific article and a question. Answer the question as concisely as you can, "
            "using a single phrase or sentence if possible. If the question cannot be answered based on the "
            'information in the article, write "unanswerable". If the question is a yes/no question, answer '
            '"yes", "no", or "unanswerable". Do not provide any explanation.\n\nArticle: {context}\n\n Answer '
            "the question based on the above article as concisely as you can, using a single phrase or "
            "sentence if possible. If the question cannot be answered based on the information in the article, "
            'write "unanswerable". If the question is a yes/no question, answer "yes", "no", or '
            '"unanswerable". Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:'
        ),
        max_new_tokens=128,
        metric="qa_f1",
        in_e=True,
    ),
    "multifieldqa_en": Task(
        template=(
            "Read the following text and answer briefly.\n\n{context}\n\nNow, answer the following question "
            "based on the above text, only give me the answer and do not output any other words.\n\nQuestion: "
            "{input}\nAnswer:"
        ),
        max_new_tokens=64,
        metric="qa_f1",
        in_e=True,
    ),
    "multifieldqa_zh": Task(
        template=(
            "阅读以下文字并用中文简短回答：\n\n{context}\n\n"
            "现在请基于上面的文章回答下面的问题，只告诉我答案，不要输出任何其他字词。\n\n问题：{input}\n回答："
        ),
        max_new_tokens=64,
        metric="qa_f1_zh",
    ),
    "hotpotqa": Task(
        template=_FROM_PASSAGES,
        max_new_tokens=32,
        metric="qa_f1",
        in_e=True,
    ),
    "2wikimqa": Task(
        template=_FROM_PASSAGES,
        max_new_tokens=32,
        metric="qa_f1",
        in_e=True,
    ),
    "musique": Task(
        template=_FROM_PASSAGES,
        max_new_tokens=32,
        metric="qa_f1",
    ),
    "dureader": Task(
        template=(
            "请基于给定的文章回答下述问题。\n\n文章：{context}\n\n请基于上述文章回答下面的问题。\n\n"
            "问题：{input}\n回答："
        ),
        max_new_tokens=128,
        metric="rouge_zh",
    ),
    "gov_report": Task(
        template=(
            "You are given a report by a government agency. Write a one-page summary of the report.\n\n"
            "Report:\n{context}\n\nNow, write a one-page summary of the report.\n\nSummary:"
        ),
        max_new_tokens=512,
        metric="rouge",
        in_e=True,
    ),
    "qmsum": Task(
        template=(
            "You are given a meeting transcript and a query containing a question or instruction. Answer the "
            "query in one or more sentences.\n\nTranscript:\n{context}\n\nNow, answer the query based on the "
            "above meeting transcript in one or more sentences.\n\nQuery: {input}\nAnswer:"
        ),
        max_new_tokens=512,
        metric="rouge",
    ),
    "multi_news": Task(
        template=(
            "You are given several news passages. Write a one-page summary of all news. \n\nNews:\n"
            "{context}\n\nNow, write a one-page summary of all the news.\n\nSummary:"
        ),
        max_new_tokens=512,
        metric="rouge",
        in_e=True,
    ),
    "vcsum": Task(
        template="下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n会议记录：\n{context}\n\n会议总结：",
        max_new_tokens=512,
        metric="rouge_zh",
    ),
    "trec": Task(
        template=(
            "Please determine the type of the question below. Here are some examples of questions.\n\n"
            "{context}\n{input}"
        ),
        max_new_tokens=64,
        metric="classification",
        in_e=True,
        chat=False,
        first_line=True,
    ),
    "triviaqa": Task(
        template=(
            "Answer the question based on the given passage. Only give me the answer and do not output any "
            "other words. The following are some examples.\n\n{context}\n\n{input}"
        ),
        max_new_tokens=32,
        metric="qa_f1",
        in_e=True,
        chat=False,
        first_line=True,
    ),
    "samsum": Task(
        template=(
            "Summarize the dialogue into a few short sentences. The following are some examples.\n\n"
            "{context}\n\n{input}"
        ),
        max_new_tokens=128,
        metric="rouge",
        in_e=True,
        chat=False,
        first_line=True,
    ),
    "lsht": Task(
        template="请判断给定新闻的类别，下面是一些例子。\n\n{context}\n{input}",
        max_new_tokens=64,
        metric="classification",
        chat=False,
        first_line=True,
    ),
    "passage_count": Task(
        template=(
            "There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. Please "
            "carefully read these paragraphs and determine how many unique paragraphs there are after removing "
            "duplicates. In other words, how many non-repeating paragraphs are there in total?\n\n{context}\n\n"
            "Please enter the final count of unique paragraphs after removing duplicates. The output format "
            "should only contain the number, such as 1, 2, 3, and so on.\n\nThe final answer is: "
        ),
        max_new_tokens=32,
        metric="count",
        in_e=True,
    ),
    "passage_retrieval_en": Task(
        template=(
            "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which paragraph "
            "the abstract is from.\n\n{context}\n\nThe following is an abstract.\n\n{input}\n\nPlease enter "
            'the number of the paragraph that the abstract is from. The answer format must be like "Paragraph '
            '1", "Paragraph 2", etc.\n\nThe answer is: '
        ),
        max_new_tokens=32,
        metric="retrieval",
        in_e=True,
    ),
    "passage_retrieval_zh": Task(
        template=(
            "以下是若干段落文字，以及其中一个段落的摘要。请确定给定的摘要出自哪一段。\n\n{context}\n\n"
            '下面是一个摘要\n\n{input}\n\n请输入摘要所属段落的编号。答案格式必须是"段落1"，"段落2"等格式\n\n'
            "答案是："
        ),
        max_new_tokens=32,
        metric="retrieval_zh",
    ),
    "lcc": Task(
        template="Please complete the code given below. \n{context}Next line of code:\n",
        max_new_tokens=64,
        metric="code_sim",
        in_e=True,
        chat=False,
    ),
    "repobench-p": Task(
        template="Please complete the code given below. \n{context}{input}Next line of code:\n",
        max_new_tokens=64,
        metric="code_sim",
        in_e=True,
        chat=False,
    ),
}
