"""Every text of the page in every language it speaks, in one table. What data, users and notes say stays as it is."""

from __future__ import annotations

import html
from dataclasses import dataclass

from regraft.errors import OptionsError, Problem, did_you_mean

LANGUAGES: dict[str, str] = {"en": "English", "zh": "中文"}
"""Code, as HTML knows it, and what the language calls itself."""

TEXTS: dict[str, tuple[str, str]] = {
    # The head of the page and the verdict.
    "report": ("Report", "报告"),
    "contents": ("Contents", "目录"),
    "verdict-better": ("better", "更好"),
    "verdict-no-evidence": ("no evidence", "证据不足"),
    "verdict-worse": ("worse", "更差"),
    "better-than": (
        "{b} is better than {a}: {difference}, McNemar p {p}, n = {n}.",
        "{b} 优于 {a}：{difference}，McNemar 检验 p {p}，n = {n}。",
    ),
    "worse-than": (
        "{b} is worse than {a}: {difference}, McNemar p {p}, n = {n}.",
        "{b} 不如 {a}：{difference}，McNemar 检验 p {p}，n = {n}。",
    ),
    "no-difference": (
        "No evidence that {b} and {a} differ: {difference}, McNemar p {p}, n = {n}. Only from about {small} would it show.",
        "没有证据表明 {b} 与 {a} 有差别：{difference}，McNemar 检验 p {p}，n = {n}。差别约达 {small} 才能看出。",
    ),
    "better-in": (
        "{b} is better than {a}: {quantity} {difference}, paired randomisation p {p}, n = {n}.",
        "{b} 优于 {a}：{quantity} {difference}，配对随机化检验 p {p}，n = {n}。",
    ),
    "worse-in": (
        "{b} is worse than {a}: {quantity} {difference}, paired randomisation p {p}, n = {n}.",
        "{b} 不如 {a}：{quantity} {difference}，配对随机化检验 p {p}，n = {n}。",
    ),
    "no-difference-in": (
        "No evidence that {b} and {a} differ: {quantity} {difference}, paired randomisation p {p}, n = {n}. Only from about "
        "{small} would it show.",
        "没有证据表明 {b} 与 {a} 有差别：{quantity} {difference}，配对随机化检验 p {p}，n = {n}。差别约达 {small} 才能看出。",
    ),
    "points": ("{value} points", "{value} 个百分点"),
    "weakest-of": ("Of {count} targets, the weakest verdict is: {verdict}.", "{count} 个目标中最弱的结论：{verdict}。"),
    "nothing-compared": ("Nothing was compared; the figures stand for themselves.", "没有比较对象，以下仅为数值。"),
    "rows-judged": ("{n} rows judged", "评判了 {n} 行"),
    "target": ("Target {name}", "目标 {name}"),
    "all-targets": ("all targets together", "全部目标合计"),
    "lacks": (
        "This artifact has no {files}: it was made by an older version, or from another artifact. What needs them is left out.",
        "此制品缺少 {files}：由旧版本或从其他制品生成，相关部分从略。",
    ),
    "no-charts": (
        "Charts are left out, their numbers stand in tables: the package matplotlib is not installed. To have them: {command}",
        "未安装 matplotlib，图表从略，数值见表格。安装：{command}",
    ),
    "made-by": (
        "Made by regraft {version}. This page needs nothing from outside and runs nothing.",
        "由 regraft {version} 生成。本页不请求任何外部资源，也不运行脚本。",
    ),
    "notes-language": ("", "说明、列名与数据保持原文。"),
    # Headings.
    "metrics": ("Metrics", "指标"),
    "ladder": ("Ladder", "阶梯对比"),
    "seeds": ("Seeds", "随机种子"),
    "ablation": ("Without each part", "逐部分去除"),
    "curves": ("Learning curves", "学习曲线"),
    "confusion": ("Confusion", "混淆矩阵"),
    "classes": ("Classes", "各类别"),
    "calibration": ("Reliability", "可靠性"),
    "abstain": ("Coverage and risk", "覆盖率与风险"),
    "conformal": ("Conformal answers", "保形预测"),
    "slices": ("Slices", "分组"),
    "weak-slices": ("Weak slices", "薄弱分组"),
    "fairness": ("Groups", "公平性"),
    "worst": ("Worst errors", "最严重的错误"),
    "data": ("Data", "数据"),
    "cost": ("Cost", "开销"),
    "lineage": ("Lineage", "来源"),
    "again": ("Make it again", "如何重现"),
    "side-by-side": ("Side by side", "并列比较"),
    # Heads of tables.
    "metric": ("metric", "指标"),
    "value": ("value", "数值"),
    "value-and-interval": ("value [interval]", "数值 [区间]"),
    "on-a-scale": ("on a scale", "刻度"),
    "rows": ("rows", "行数"),
    "verdict": ("verdict", "结论"),
    "difference": ("difference", "差值"),
    "time": ("time", "用时"),
    "class": ("class", "类别"),
    "f1-scale": ("F1 on a scale", "F1 刻度"),
    "precision": ("precision", "精确率"),
    "recall": ("recall", "召回率"),
    "step": ("update", "步"),
    "loss": ("loss", "损失"),
    "learning-rate": ("learning rate", "学习率"),
    "gradient-norm": ("gradient norm", "梯度范数"),
    "truth": ("is", "真实"),
    "answer": ("answered", "回答"),
    "confidence": ("confidence", "置信度"),
    "was-taken-for": ("was taken for", "被认作"),
    "is-taken-for": ("is ↓ taken for →", "真实 ↓ 认作 →"),
    "before": ("before", "校准前"),
    "after": ("after", "校准后"),
    "bin": ("probability from–to", "概率区间"),
    "said": ("mean said", "平均所称概率"),
    "were-right": ("were right", "实际正确"),
    "threshold": ("threshold", "阈值"),
    "answered": ("answered", "作答比例"),
    "risk": ("wrong among them", "其中错误"),
    "p-holm": ("p (Holm)", "p（Holm 校正）"),
    "few-rows": ("(too few rows to compare)", "（行数过少，不作比较）"),
    "positive-answer": ("The positive answer is {label}.", "正类为 {label}。"),
    "between": ("between", "组别"),
    "wanted-precision": ("precision wanted", "期望精确率"),
    "seen-precision": ("right among them", "其中正确"),
    "mean-and-interval": ("mean [interval]", "均值 [区间]"),
    "spread": ("spread", "离散度"),
    "variance-of-seeds": ("variance from seeds", "种子方差"),
    "variance-of-rows": ("from rows", "行方差"),
    "variance-of-both": ("of both", "合计方差"),
    "rule": ("rule", "规则"),
    "overall": ("on all rows", "全部行"),
    "split": ("split", "划分"),
    "digest": ("digest", "摘要"),
    "lost": ("lost or odd", "丢失或异常"),
    "how-often": ("how often", "次数"),
    "where-first": ("where first", "最先出现于"),
    "stage": ("stage", "阶段"),
    "figure": ("figure", "项目"),
    "task": ("task", "任务"),
    "reads": ("reads", "输入"),
    "predicts": ("predicts", "预测"),
    "base": ("base", "基座"),
    "seed": ("seed", "随机种子"),
    "weights": ("weights digest", "权重摘要"),
    "artifact-digest": ("artifact digest", "制品摘要"),
    "size": ("size", "大小"),
    "versions": ("versions", "版本"),
    "lineage-line": ("lineage", "谱系"),
    "artifact": ("artifact", "制品"),
    "tuning": ("tuning", "微调方式"),
    "against-first": ("against {name}", "与 {name} 相比"),
    # Sentences below and beside tables and charts.
    "higher-is-better": ("higher is better", "越高越好"),
    "lower-is-better": ("lower is better", "越低越好"),
    "interval-note": ("In brackets the {percent} interval.", "方括号内为 {percent} 区间。"),
    "scale-from-to": (
        "The scale goes from {low} to {high}; the filled dot is the model.",
        "刻度自 {low} 至 {high}；实心点为本模型。",
    ),
    "against-row-above": (
        "Verdict, difference and p: against the row above, on the same rows.",
        "结论、差值与 p 均为在相同行上与上一行相比。",
    ),
    "all-metrics": ("All metrics of all rungs", "各级全部指标"),
    "ablation-note": (
        "The fitted model on the same rows, as if one part were missing in all of them; against the model with all parts.",
        "在相同行上假定缺少某一部分时的模型，与具备全部部分时相比。",
    ),
    "as-numbers": ("As numbers", "查看数值"),
    "weights-kept": (
        "Training ended ({reason}); the weights after update {step} were kept.",
        "训练结束（{reason}），保留第 {step} 步的权重。",
    ),
    "best-so-far": ("best so far", "当前最佳"),
    "validations-of": ("{shown} of {all} validations.", "共 {all} 次验证，列出 {shown} 次。"),
    "updates-of": ("{shown} of the {all} updates that are kept.", "保留的 {all} 步中列出 {shown} 步。"),
    "updates": ("updates", "步数"),
    "of-batches": ("loss of the batches, thick its running mean", "各批损失，粗线为滑动平均"),
    "on-validation": ("{name} on the validation rows, the dot its best", "验证集上的 {name}，圆点为最佳"),
    "gradient-before": ("norm of the gradient before clipping, logarithmic", "裁剪前的梯度范数（对数刻度）"),
    "rate-caption": ("learning rate", "学习率"),
    "confusion-note": (
        "Rows are the truth, columns the answer. The stronger the colour, the larger its share of the row; framed is right.",
        "行为真实类别，列为回答。颜色越深，占该行比例越大；加框者为正确。",
    ),
    "heat-note": (
        "Rows are the truth, columns the answer, as shares of the row, in the order of the labels.",
        "行为真实类别，列为回答，按行占比，依标签顺序。",
    ),
    "mistakes-note": ("The {shown} most frequent of {all} kinds of mistakes.", "共 {all} 种错误，列出最常见的 {shown} 种。"),
    "weakest-first": ("The {shown} weakest of {all} classes first.", "共 {all} 个类别，先列最弱的 {shown} 个。"),
    "all-others": ("All others", "其余全部"),
    "calibrated-by": ("Calibrated by: {method}.", "校准方法：{method}。"),
    "calibration-note": (
        "Of errors (ece, brier, log loss) lower is better; both on the test rows.",
        "误差（ece、brier、log loss）越低越好；均在测试行上计算。",
    ),
    "reliability": ("Reliability", "可靠性"),
    "reliability-note": (
        "Of the rows with about this probability, how many were right; on the diagonal probabilities mean what they say. Bars "
        "are intervals.",
        "所称概率相近的行中实际正确的比例；落在对角线上说明概率可信。竖线为区间。",
    ),
    "said-probability": ("said", "所称概率"),
    "share-right": ("were right", "实际正确比例"),
    "abstain-note": (
        "Answering only the surest rows: how many of the answered ones are wrong. The band is the interval.",
        "只回答最有把握的行时，所答中错误的比例。阴影为区间。",
    ),
    "coverage-axis": ("share of rows answered", "作答比例"),
    "risk-axis": ("share wrong", "错误比例"),
    "conformal-note": (
        "An answer is a set or a range that holds the truth as often as was asked for.",
        "回答为一个集合或区间，以所要求的概率包含真值。",
    ),
    "slices-note": (
        "The model on the rows of each value; the difference is against all other rows, p corrected for their number.",
        "模型在各取值的行上的表现；差值为与其余行相比，p 已按数量校正。",
    ),
    "weak-slices-note": (
        "Found by search, then tested; p is corrected for how many were tried.",
        "先搜索再检验；p 已按尝试次数校正。",
    ),
    "no-weak-slice": (
        "The search found no group of rows on which the model is evidently weaker than on all.",
        "未发现模型明显更弱的行组。",
    ),
    "too-few": ("too few rows", "行数太少"),
    "fairness-note": ("Differences between groups in points, with their intervals.", "组间差值（百分点）及区间。"),
    "worst-note": (
        "The {shown} most wrong of {wrong} wrong rows ({judged} judged), the worst first.",
        "{judged} 行中有 {wrong} 行回答有误，列出最严重的 {shown} 行，最严重者在前。",
    ),
    "none-wrong": ("None of the {judged} rows is wrong.", "{judged} 行中没有错误。"),
    "worst-cut": (
        "{left} more rows are left out, so that the page stays below its size; a page of fewer artifacts has them.",
        "为控制页面大小，另有 {left} 行从略；制品较少的页面会列出。",
    ),
    "cost-of-row": ("off by", "偏差"),
    "more-characters": ("… and {count} more characters", "……另有 {count} 个字符"),
    "more-columns": ("and {count} more columns", "另有 {count} 列"),
    "seconds-of": ("the first {shown} of {all} s, at most 8 kHz", "{all} 秒中的前 {shown} 秒，最高 8 kHz"),
    "from-to-steps": ("{low} to {high}, {steps} steps", "{low} 至 {high}，{steps} 步"),
    "notes": ("Notes", "说明"),
    "nothing-lost": ("Nothing was lost on the way.", "过程中没有丢失任何数据。"),
    "in-all": ("{seconds} in all.", "共 {seconds}。"),
    "again-note": (
        "The same command on the same data, seed, versions and thread count gives the same weights digest.",
        "相同命令、数据、种子、版本与线程数得到相同的权重摘要。",
    ),
    "use": ("How to use it", "如何使用"),
    "same-rows": (
        "Verdicts are paired tests against {name}, on the same test rows.",
        "结论为在相同测试行上与 {name} 的配对检验。",
    ),
    "other-rows": (
        "Those marked “other rows” were judged on other rows than {name}: their figures cannot be compared row by row.",
        "标为“其他行”者与 {name} 评判的行不同，不宜直接比较。",
    ),
    "no-answers": (
        "Where answers to the single rows were not kept (by older versions, in exports), no paired test can be made.",
        "未保留逐行回答者（旧版本或导出），无法做配对检验。",
    ),
    "rows-other": ("other rows", "其他行"),
    "rows-unknown": ("answers not kept", "未保留回答"),
    "losses-together": ("running mean of the loss of the batches", "各批损失的滑动平均"),
}


@dataclass(frozen=True)
class Words:
    """Texts in one language.

    Args:
        language: A code of `LANGUAGES`.

    Raises:
        OptionsError: The page does not speak it.

    Example:
        >>> Words("zh").plain("ladder"), Words("en").html("rows-judged", n="<b>5</b>")
        ('阶梯对比', '<b>5</b> rows judged')
    """

    language: str = "en"

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            what, expected = f"the page does not speak '{self.language}'", ", ".join(LANGUAGES)
            fix = did_you_mean(self.language, list(LANGUAGES))
            raise OptionsError(Problem(what=what, where="language", expected=expected, fix=fix))

    def plain(self, key: str, **values: object) -> str:
        """Return a text as it is."""
        return TEXTS[key][list(LANGUAGES).index(self.language)].format(**values)

    def html(self, key: str, **values: object) -> str:
        """Return a text escaped; values that are put into it are HTML already."""
        return html.escape(TEXTS[key][list(LANGUAGES).index(self.language)], quote=False).format(**values)
