// After all the rest of the page.
startEditing();
startQuestions();
